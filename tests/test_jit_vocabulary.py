"""The vocabulary of kernels against Python and numpy, operation by operation."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ggq.jit import Kernel, cpu, kernel
from ggq.jit.lang import (
    Type,
    Value,
    absolute,
    concat,
    const,
    discarded,
    f32,
    f64,
    floor,
    fma,
    gather,
    hmax,
    hsum,
    i8,
    i16,
    i32,
    i64,
    load,
    loop,
    maximum,
    minimum,
    prefetch,
    repeat_while,
    rint,
    scatter,
    scratch,
    select,
    shuffle,
    splat,
    split,
    sqrt,
    store,
    table,
    truncate,
    u8,
    u16,
    u32,
    u64,
    var,
    when,
    widen,
    zeros,
)  # fmt: skip
from ggq.jit.transpose import columns, transpose
from tests.kernel_calls import Array, call, filled, fresh_kernel

LANES = 16
INTEGERS = [i8, i16, i32, i64, u8, u16, u32, u64]
FLOATS = [f32, f64]
pytestmark = pytest.mark.usefixtures("own_kernel_cache")
examples = settings(max_examples=50, deadline=None)


def dtype(type: Type) -> np.dtype[Any]:
    return np.dtype(f"{type.kind}{type.bits // 8}")


def vectors(type: Type, **kwargs: Any) -> st.SearchStrategy[Array]:
    return hnp.arrays(dtype(type), LANES, **kwargs)


def ids(types: list[Type]) -> list[str]:
    return [f"{t.kind}{t.bits}" for t in types]


# -- control flow ---------------------------------------------------------------------------------


@cache
def _numbers_kernel(step: int) -> Kernel:
    def body(start: Value, stop: Value, out: Value, count: Value) -> None:
        n = var(const(i64, 0))
        for i in loop(start, stop, step):
            store(out + n * 8, i)
            n += 1
        store(count, n.value)

    return fresh_kernel(body, 4)


@examples
@given(st.integers(-50, 50), st.integers(-50, 50), st.sampled_from([1, 3, 16]))
def test_loop_is_range(start: int, stop: int, step: int) -> None:
    out, count = filled("i8", 128), filled("i8", 1)
    _numbers_kernel(step)(start, stop, out.ctypes.data, count.ctypes.data)
    assert out[: count[0]].tolist() == list(range(start, stop, step))


def test_loops_nest_and_python_loops_unroll() -> None:
    def body(n: Value, out: Value) -> None:
        total = var(const(i64, 0))
        for i in loop(n):
            for j in loop(i):
                for k in range(3):
                    total += i * j + k
        store(out, total.value)

    out = filled("i8", 1)
    call(body, 10, out)
    assert out[0] == sum(i * j + k for i in range(10) for j in range(i) for k in range(3))


@cache
def _collatz() -> Kernel:
    def body(n: Value, out: Value) -> None:
        x, steps = var(n), var(const(i64, 0))
        for _ in repeat_while(lambda: x > 1):
            odd = (x & 1).ne(0)
            x.set(select(odd, x * 3 + 1, x >> 1))
            steps += 1
        store(out, steps.value)

    return fresh_kernel(body, 2)


@examples
@given(st.integers(1, 10_000))
def test_repeat_while_asks_before_every_turn(n: int) -> None:
    out = filled("i8", 1)
    _collatz()(n, out.ctypes.data)
    steps = 0
    while n > 1:
        n, steps = (3 * n + 1 if n % 2 else n // 2), steps + 1
    assert out[0] == steps


def test_when_runs_its_body_or_not() -> None:
    def body(a: Value, b: Value, out: Value) -> None:
        changed = var(const(i64, 1))
        with when(a < b):
            changed.set(2)
            with when(b < 100):
                changed += 10
        store(out, changed.value)

    kernel, out = fresh_kernel(body, 3), filled("i8", 1)
    for a, b, wanted in ((1, 2, 12), (2, 1, 1), (1, 200, 2), (3, 3, 1)):
        kernel(a, b, out.ctypes.data)
        assert out[0] == wanted


# -- arithmetic -----------------------------------------------------------------------------------

BINARY: dict[str, Callable[[Any, Any], Any]] = {
    name: getattr(operator, name) for name in ("add", "sub", "mul")
}
BITWISE: dict[str, Callable[[Any, Any], Any]] = {
    name: getattr(operator, name) for name in ("and_", "or_", "xor")
}
COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    name: getattr(operator, name) for name in ("lt", "le", "gt", "ge")
}


@cache
def _binary_kernel(type: Type, names: tuple[str, ...]) -> Kernel:
    def body(a: Value, b: Value, out: Value) -> None:
        x, y = load(type * LANES, a), load(type * LANES, b)
        for n, name in enumerate(names):
            store(out + n * (LANES * type.nbytes), getattr(operator, name)(x, y))

    return fresh_kernel(body, 3)


def binary(type: Type, names: tuple[str, ...], a: Array, b: Array) -> Array:
    out = filled(dtype(type), LANES * len(names))
    _binary_kernel(type, names)(a.ctypes.data, b.ctypes.data, out.ctypes.data)
    return out.reshape(len(names), LANES)


@pytest.mark.parametrize("type", INTEGERS, ids=ids(INTEGERS))
@examples
@given(data=st.data())
def test_integer_arithmetic_wraps_as_numpys(type: Type, data: st.DataObject) -> None:
    a, b = data.draw(vectors(type)), data.draw(vectors(type))
    names = (*BINARY, *BITWISE)
    wanted = [getattr(operator, name)(a, b) for name in names]
    assert np.array_equal(binary(type, names, a, b), wanted)
    shift = np.asarray(b & (type.bits - 1), dtype(type))
    shifted = binary(type, ("lshift", "rshift"), a, shift)
    assert np.array_equal(shifted, [a << shift, a >> shift])


@pytest.mark.parametrize("type", [i32, i64, u32, u64], ids=ids([i32, i64, u32, u64]))
@examples
@given(data=st.data())
def test_integer_quotients_round_toward_zero(type: Type, data: st.DataObject) -> None:
    limits = np.iinfo(dtype(type))
    number = st.integers(int(limits.min) + 1, int(limits.max))
    a = data.draw(vectors(type, elements=number))
    b = data.draw(vectors(type, elements=number.filter(bool)))
    quotient, rest = binary(type, ("floordiv", "mod"), a, b)
    for x, y, q, r in zip(*(v.tolist() for v in (a, b, quotient, rest)), strict=True):
        assert abs(q) == abs(x) // abs(y)
        assert q * y + r == x


@pytest.mark.parametrize("type", FLOATS, ids=ids(FLOATS))
@examples
@given(data=st.data())
def test_float_arithmetic_is_ieee(type: Type, data: st.DataObject) -> None:
    a, b = data.draw(vectors(type)), data.draw(vectors(type))
    names = (*BINARY, "truediv")
    with np.errstate(all="ignore"):
        wanted = [getattr(operator, name)(a, b) for name in names]
    np.testing.assert_array_equal(binary(type, names, a, b), wanted)


@cache
def _compare_kernel(type: Type) -> Kernel:
    def body(a: Value, b: Value, out: Value) -> None:
        x, y = load(type * LANES, a), load(type * LANES, b)
        yes, no = const(u8 * LANES, 1), zeros(u8 * LANES)
        checks = [getattr(operator, name)(x, y) for name in COMPARE]
        for n, check in enumerate([*checks, x.eq(y), x.ne(y)]):
            store(out + n * LANES, select(check, yes, no))
        for n, chosen in enumerate([minimum(x, y), maximum(x, y)]):
            store(out + 6 * LANES + n * (LANES * type.nbytes), chosen)

    return fresh_kernel(body, 3)


@pytest.mark.parametrize("type", INTEGERS + FLOATS, ids=ids(INTEGERS + FLOATS))
@examples
@given(data=st.data())
def test_comparisons_and_selection(type: Type, data: st.DataObject) -> None:
    a, b = data.draw(vectors(type)), data.draw(vectors(type))
    out = filled("u1", LANES * (6 + 2 * type.nbytes))
    _compare_kernel(type)(a.ctypes.data, b.ctypes.data, out.ctypes.data)
    wanted = [compare(a, b) for compare in (*COMPARE.values(), operator.eq, operator.ne)]
    assert np.array_equal(out[: 6 * LANES].reshape(6, LANES), wanted)
    low, high = out[6 * LANES :].view(dtype(type)).reshape(2, LANES)
    np.testing.assert_array_equal(low, np.where(a < b, a, b))
    np.testing.assert_array_equal(high, np.where(a > b, a, b))


@cache
def _unary_kernel() -> Kernel:
    def body(a: Value, out: Value) -> None:
        x = load(f32 * LANES, a)
        for n, y in enumerate([-x, absolute(x), rint(x), truncate(x), floor(x), sqrt(absolute(x))]):
            store(out + n * (4 * LANES), y)

    return fresh_kernel(body, 2)


@examples
@given(vectors(f32))
def test_float_functions(a: Array) -> None:
    out = filled("f4", 6 * LANES)
    _unary_kernel()(a.ctypes.data, out.ctypes.data)
    wanted = [-a, np.abs(a), np.rint(a), np.trunc(a), np.floor(a), np.sqrt(np.abs(a))]
    np.testing.assert_array_equal(out.reshape(6, LANES), wanted)


def test_only_fma_rounds_once() -> None:
    def body(a: Value, b: Value, c: Value, out: Value) -> None:
        x, y, z = load(f32, a), load(f32, b), load(f32, c)
        store(out, x * y + z)
        store(out + 4, fma(x, y, z))

    out = filled("f4", 2)
    x = np.array([1 + 2**-12], np.float32)
    call(body, x, x, np.array([-(1 + 2**-11)], np.float32), out)
    fuses = cpu.machine().features & {"fma", "neon"}
    assert out.tolist() == [0.0, 2.0**-24 if fuses else 0.0]


@pytest.mark.parametrize("target", INTEGERS + FLOATS, ids=ids(INTEGERS + FLOATS))
@pytest.mark.parametrize("source", INTEGERS + FLOATS, ids=ids(INTEGERS + FLOATS))
def test_conversions_are_numpys(source: Type, target: Type) -> None:
    def body(a: Value, out: Value) -> None:
        store(out, load(source * LANES, a).to(target))

    rng, out = np.random.default_rng(0), filled(dtype(target), LANES)
    if source.kind == "f":
        a = rng.uniform(0 if target.kind == "u" else -100, 100, LANES).astype(dtype(source))
    else:
        raw = rng.integers(0, 256, LANES * source.nbytes, dtype=np.uint8)
        a = raw.view(dtype(source))
    call(body, a, out)
    assert np.array_equal(out, a.astype(dtype(target)))


def test_a_scalar_meets_every_lane() -> None:
    def body(a: Value, out: Value) -> None:
        x, one = load(i32 * LANES, a), load(i32, a)
        store(out, (one + x) * 2 - splat(one, LANES) + (10 - x))

    a, out = np.arange(5, 5 + LANES, dtype=np.int32), filled("i4", LANES)
    call(body, a, out)
    assert np.array_equal(out, (5 + a) * 2 - 5 + (10 - a))


# -- lanes and memory -----------------------------------------------------------------------------


def test_lanes_are_picked_joined_split_and_padded() -> None:
    def body(a: Value, out: Value) -> None:
        x = load(i16 * 8, a)
        y = load(i16 * 8, a + 16)
        store(out, shuffle(x, [7, 0, 15, 8, 3, 3, 3, 12], y))
        store(out + 16, concat(*split(concat(x, y), 4)[::-1]))
        store(out + 48, widen(x, 16))
        store(out + 80, x.with_lane(2, y[5])[2])

    a, out = np.arange(100, 116, dtype=np.int16), filled("i2", 41)
    call(body, a, out)
    x, y = a[:8], a[8:]
    wanted = [a[[7, 0, 15, 8, 3, 3, 3, 12]], a.reshape(4, 4)[::-1].ravel(), x, np.zeros(8), y[5:6]]
    assert np.array_equal(out, np.concatenate(wanted))


def test_lanes_are_folded() -> None:
    def body(a: Value, out: Value) -> None:
        store(out, hsum(load(i32 * LANES, a)))
        store(out + 4, hmax(load(i32 * LANES, a)))

    a, out = np.random.default_rng(1).integers(-99, 99, LANES, dtype=np.int32), filled("i4", 2)
    call(body, a, out)
    assert out.tolist() == [a.sum(), a.max()]


@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_gather_and_scatter_reach_any_address(lanes: int) -> None:
    def body(a: Value, places: Value, out: Value) -> None:
        where = load(i64 * lanes, places)
        scatter(where * 4 + out, gather(f32, where * 4 + a) * 2.0)

    rng = np.random.default_rng(2)
    a, places = rng.standard_normal(99).astype(np.float32), rng.permutation(99)[:lanes]
    out = filled("f4", 99)
    call(body, a, places.astype(np.int64), out)
    wanted = np.zeros(99, np.float32)
    wanted[places] = 2 * a[places]
    assert np.array_equal(out, wanted)


def test_tables_and_scratch_memory() -> None:
    def body(n: Value, out: Value) -> None:
        squares = [k * k for k in range(50)]
        reversed_ = scratch(200)
        for i in loop(50):
            store(reversed_ + (49 - i) * 4, load(i32, table(i32, squares) + i * 4))
        for i in loop(n):
            again = load(i32, table(i32, squares) + i * 4)  # the same table, not a second one
            store(out + i * 4, load(i32, reversed_ + i * 4) + again * 0)

    out = filled("i4", 50)
    call(body, 50, out)
    assert out.tolist() == [k * k for k in range(50)][::-1]


@pytest.mark.parametrize(("n", "w"), [(4, 1), (4, 4), (8, 2), (8, 8), (16, 4), (16, 16), (4, 16)])
def test_columns_transpose_any_shape(n: int, w: int) -> None:
    def body(a: Value, out: Value) -> None:
        rows = [load(i32 * w, a + 4 * w * r) for r in range(n)]
        for k, column in enumerate(columns(rows)):
            store(out + 4 * n * k, column)

    a, out = np.arange(n * w, dtype=np.int32), filled("i4", n * w)
    call(body, a, out)
    assert np.array_equal(out.reshape(w, n), a.reshape(n, w).T)


def test_transpose_of_wider_vectors_transposes_squares_side_by_side() -> None:
    def body(a: Value, out: Value) -> None:
        for k, row in enumerate(transpose([load(i32 * 8, a + 32 * r) for r in range(4)])):
            store(out + 32 * k, row)

    a, out = np.arange(32, dtype=np.int32), filled("i4", 32)
    call(body, a, out)
    squares = a.reshape(4, 2, 4)
    assert np.array_equal(out.reshape(4, 2, 4), squares.transpose(2, 1, 0))


# -- mistakes -------------------------------------------------------------------------------------


def test_nothing_runs_outside_of_a_kernel() -> None:
    with pytest.raises(RuntimeError, match="only while a kernel is being compiled"):
        const(i32, 1)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda x: load(f32, x) + load(i32, x), "wanted; convert with"),
        (lambda x: load(f32, x) & load(f32, x), "no such operation"),
        (lambda x: load(f32 * 4, x).bits(i64), "has 16 bytes"),
        (lambda x: const(f32 * 4, [1, 2, 3]), "3 constants for 4 lanes"),
        (lambda x: bool(x < 3), "use `when` or `select`"),
    ],
)
def test_mixed_types_are_refused(mistake: Callable[[Value], Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        call(lambda x: mistake(x), 0)


@pytest.mark.parametrize("address", [0, 1, 2**47, -1])
def test_asking_for_a_line_that_is_not_there_does_nothing(address: int) -> None:
    call(prefetch, address)


def test_what_is_discarded_does_not_happen() -> None:
    def body(out: Value) -> None:
        with discarded():
            for i in loop(3):
                store(scratch(8) + i, load(i32, table(i32, [1, 2]) + i))
            store(const(i64, 0), load(i64, const(i64, 0)))  # would end the process
        store(out, load(i32, table(i32, [5])))

    out = filled("i4", 1)
    call(body, out)
    assert out[0] == 5


def test_the_kernels_of_a_file_are_named_after_it() -> None:
    @kernel
    def twice(x: Value, out: Value) -> None:
        store(out, x + x)

    out = filled("i8", 1)
    twice(21, out.ctypes.data)
    assert out[0] == 42
    assert twice.symbol == "ggq_test_jit_vocabulary_twice"
    assert repr(twice) == "<kernel test_jit_vocabulary.twice>"
