"""Powers of two, e and soft-capping against numpy in double precision, in every form."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ggq.jit import Kernel, cpu
from ggq.jit.isa import target
from ggq.jit.lang import Value, f32, load, loop, store
from ggq.runtime.kernels import activation
from ggq.runtime.kernels._math import exp, exp2, tanh
from ggq.runtime.kernels._op import N_TOKENS, STATE_WORDS
from tests.kernel_calls import Array, fresh_kernel

pytestmark = pytest.mark.usefixtures("own_kernel_cache")
laws = settings(max_examples=60, deadline=None)
COUNT = 64  # a whole number of vectors in every form
SMALLEST_NORMAL = 2.0**-126
CAPS = (0.5, 30.0, 50.0)


@pytest.fixture(scope="module", params=cpu.forms())
def form(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each form this processor can run, forced."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GGQ_CPU", request.param)
        yield request.param


def singles(low: float, high: float) -> st.SearchStrategy[Array]:
    """f32[COUNT] within low..high."""
    return hnp.arrays(np.float32, COUNT, elements=st.floats(low, high, width=32))


def filled_up(numbers: list[float]) -> Array:
    """f32[COUNT] of these numbers, over and over."""
    return np.resize(np.array(numbers, np.float32), COUNT)


@cache
def _mapped(function: Callable[..., Value], form: str, count: int) -> Kernel:
    def body(out: Value, *addresses: Value) -> None:
        lanes = target().lanes
        for i in loop(0, COUNT, lanes):
            store(out + i * 4, function(*(load(f32 * lanes, at + i * 4) for at in addresses)))

    names = ("out", "x", "y")[: count + 1]
    return fresh_kernel(body, len(names))


def mapped(function: Callable[..., Value], form: str, *arguments: Array) -> Array:
    """The function of every lane."""
    out = np.empty(COUNT, np.float32)
    _mapped(function, form, len(arguments))(*(x.ctypes.data for x in (out, *arguments)))
    return out


def units_apart(found: Array, wanted: Array) -> float:
    """Largest error in units of the last place of what is wanted, f64."""
    unit = np.spacing(np.abs(wanted).astype(np.float32)).astype(np.float64)
    return float((np.abs(found - wanted) / unit).max())


@laws
@given(singles(-126, 0))
@example(filled_up([0.0, -0.0, -0.5, -1.5, -1.0, -126.0, -125.5, -1e-38, -1e-7, -0.49999997]))
def test_exp2_is_within_3_units_of_the_last_place(form: str, x: Array) -> None:
    found = mapped(exp2, form, x)
    assert units_apart(found, np.exp2(x.astype(np.float64))) <= 3


@laws
@given(singles(-(2.0**127), -126.5))
@example(filled_up([-126.51, -127.0, -127.5, -128.0, -149.0, -150.0, -4194303.5, -1e30, -3e38]))
def test_exp2_is_nothing_where_it_is_no_normal_number(form: str, x: Array) -> None:
    """A subnormal, or 0; and 0 where single precision has nothing else."""
    found = mapped(exp2, form, x)
    assert (found >= 0).all()
    assert (found <= SMALLEST_NORMAL).all()
    assert (found[x < -150] == 0).all()


def test_exp2_of_what_is_no_number(form: str) -> None:
    assert np.isnan(mapped(exp2, form, filled_up([np.nan]))).all()


@laws
@given(singles(1, 2), hnp.arrays(np.int64, COUNT, elements=st.integers(-126, 126)))
@example(filled_up([1.0, 1.9999999, 1.5]), np.resize([-126, 126, 0, -1, 127 - 1], COUNT))
def test_times_power_of_2_is_exact(form: str, x: Array, n: Array) -> None:
    found = mapped(_times_power_of_2, form, x, n.astype(np.float32))
    assert np.array_equal(found, np.ldexp(x.astype(np.float64), n))


@laws
@given(singles(-2, 2), hnp.arrays(np.int64, COUNT, elements=st.integers(-(2**31), -128)))
@example(filled_up([2.0, -1.0]), np.resize([-128, -150, -1000, -(2**31)], COUNT))
def test_times_a_power_of_2_too_small(form: str, x: Array, n: Array) -> None:
    found = mapped(_times_power_of_2, form, x, n.astype(np.float32))
    assert (np.abs(found) <= SMALLEST_NORMAL).all()
    assert (found[n < -160] == 0).all()


def _times_power_of_2(x: Value, n: Value) -> Value:
    return target().times_power_of_2(x, n)


@laws
@given(singles(-87, 88))
@example(filled_up([0.0, -0.0, -87.0, 88.0, 1.0, -1e-38, 0.34657359, -0.34657359]))
def test_exp_is_within_2_units_of_the_last_place(form: str, x: Array) -> None:
    found = mapped(exp, form, x)
    assert units_apart(found, np.exp(x.astype(np.float64))) <= 2


@laws
@given(singles(-(2.0**127), 2.0**127))
@example(filled_up([-88.0, 89.0, 1e30, -1e30, 88.0, -87.0]))
def test_exp_is_clamped(form: str, x: Array) -> None:
    found = mapped(exp, form, x)
    assert units_apart(found, np.exp(np.clip(x.astype(np.float64), -87, 88))) <= 2


@laws
@given(singles(-(2.0**126), 2.0**126))
@example(filled_up([0.0, -0.0, 1e-30, 20.0, -20.0, 1e30, -1e30, 0.5, 1e-4]))
def test_tanh_is_within_a_few_units_of_1(form: str, x: Array) -> None:
    found = mapped(tanh, form, x)
    assert np.abs(found - np.tanh(x.astype(np.float64))).max() <= 3e-7
    assert (np.abs(found) <= 1).all()


@cache
def _softcap(form: str) -> Kernel:
    return fresh_kernel(activation.softcap.kernel._body, 5)


@laws
@given(singles(-1e4, 1e4), st.sampled_from(CAPS), st.integers(1, 4), st.integers(1, 3))
@example(filled_up([0.0, -0.0, 1e-30, 1e30, -1e30, 30.0, -30.0]), 30.0, 3, 2)
@example(filled_up([np.nan, 1.0]), 30.0, 1, 1)
def test_soft_capping(form: str, row: Array, cap: float, tokens: int, threads: int) -> None:
    """cap * tanh(y / cap) of every token; rows that no token has stay as they are."""
    y = np.tile(row, (tokens + 1, 1))
    state = np.zeros(STATE_WORDS, np.int64)
    state[N_TOKENS] = tokens
    words = activation.softcap.describe(y=y.ctypes.data, stride=y.strides[0], cols=COUNT, cap=cap)
    description = np.array(words, np.int64)
    for thread in range(threads):
        _softcap(form)(description.ctypes.data, thread, threads, 0, state.ctypes.data)
    wanted = cap * np.tanh(row.astype(np.float64) / cap)
    number = ~np.isnan(wanted)
    assert np.abs(y[:tokens, number] - wanted[number]).max(initial=0) <= 4e-7 * cap
    assert np.isnan(y[:tokens, ~number]).all()
    assert np.array_equal(y[tokens], row, equal_nan=True)
