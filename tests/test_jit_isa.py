"""What differs between processors, in every form this one can run: dot products, table, halves."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp

from ggq.jit import Kernel, cpu, isa
from ggq.jit.generic import Generic
from ggq.jit.lang import Value, const, f32, i8, i16, i32, load, loop, select, store, u8, u16
from tests.kernel_calls import Array, call, filled, fresh_kernel

pytestmark = pytest.mark.usefixtures("own_kernel_cache")


@pytest.fixture(scope="module", params=cpu.forms())
def form(request: pytest.FixtureRequest) -> Iterator[Generic]:
    """Each form this processor can run, forced."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GGQ_CPU", request.param)
        yield isa.target()


@pytest.mark.parametrize("lanes", [8, 16, 32, 64])
def test_byte_dot_products(form: Generic, lanes: int) -> None:
    def body(u: Value, w: Value, s: Value, acc: Value, out: Value) -> None:
        start, bytes_ = load(i32 * (lanes // 4), acc), load(i8 * lanes, s)
        store(out, form.dot_unsigned(start, load(u8 * lanes, u), bytes_))
        store(out + lanes, form.dot_signed(start, load(i8 * lanes, w), bytes_))

    kernel, rng = fresh_kernel(body, 5), np.random.default_rng(lanes)
    for extreme in (False, True):
        largest = 127 if form.signed_dot else 255
        u = rng.integers(0, largest + 1, lanes).astype(np.uint8)
        w = rng.integers(-127, 128, lanes).astype(np.int8)
        s = rng.integers(-127, 128, lanes).astype(np.int8)
        if extreme:
            u[:], w[:], s[:] = (
                largest,
                rng.choice([-127, 127], lanes),
                rng.choice([-127, 127], lanes),
            )
        acc, out = rng.integers(-999, 999, lanes // 4).astype(np.int32), filled("i4", lanes // 2)
        kernel(*(x.ctypes.data for x in (u, w, s, acc, out)))
        products = np.stack([u.astype(int) * s, w.astype(int) * s])
        assert np.array_equal(out.reshape(2, -1), acc + products.reshape(2, -1, 4).sum(-1))


@pytest.mark.parametrize("lanes", [4, 8, 16, 32])
def test_dot_products_of_16_bits(form: Generic, lanes: int) -> None:
    def body(a: Value, b: Value, acc: Value, out: Value) -> None:
        start = load(i32 * (lanes // 2), acc)
        store(out, form.dot_pairs(start, load(i16 * lanes, a), load(i16 * lanes, b)))

    rng = np.random.default_rng(lanes)
    a, b = (rng.integers(-(2**15) + 1, 2**15, lanes).astype(np.int16) for _ in range(2))
    acc, out = rng.integers(-999, 999, lanes // 2).astype(np.int32), filled("i4", lanes // 2)
    call(body, a, b, acc, out)
    assert np.array_equal(out, acc + (a.astype(np.int64) * b).reshape(-1, 2).sum(-1))


@pytest.mark.parametrize("lanes", [8, 16, 32, 64])
def test_lookup_in_16_bytes(form: Generic, lanes: int) -> None:
    entries = np.random.default_rng(3).integers(-128, 128, 16).tolist()

    def body(indices: Value, out: Value) -> None:
        store(out, form.lookup16(entries, load(u8 * lanes, indices)))

    indices, out = np.arange(lanes, dtype=np.uint8) * 7 % 16, filled("i1", lanes)
    call(body, indices, out)
    assert out.tolist() == [entries[i] for i in indices]


@pytest.mark.parametrize("lanes", [2, 8, 16])
def test_bits_become_lanes(form: Generic, lanes: int) -> None:
    def body(packed: Value, out: Value) -> None:
        store(out, select(form.set_bits(load(u8 * lanes, packed)), const(u8 * (8 * lanes), 1), 0))

    packed, out = np.arange(3, 3 + lanes, dtype=np.uint8) * 37, filled("u1", 8 * lanes)
    call(body, packed, out)
    assert out.tolist() == np.unpackbits(packed, bitorder="little").tolist()


@pytest.mark.parametrize(
    ("size", "count"), [(64, 32), (1024, 32), (128, 64), (512, 64), (2048, 64)]
)
def test_words_are_picked_from_a_table(form: Generic, size: int, count: int) -> None:
    if not (form.looks_up_many if count == 64 else form.looks_up_words):
        return  # it has no such operation
    words = np.random.default_rng(4).integers(0, 1 << 16, size).tolist()

    def body(indices: Value, out: Value) -> None:
        for at in loop(0, 2 * size, 2 * count):
            store(out + at, form.lookup_words(words, load(u16 * count, indices + at)))

    indices, out = (np.arange(size) * 997 % size).astype(np.uint16), filled("u2", size)
    call(body, indices, out)
    assert out.tolist() == [words[i] for i in indices]


def test_every_half_becomes_its_single(form: Generic) -> None:
    def body(halves: Value, n: Value, out: Value) -> None:
        for i in loop(0, n, 16):
            store(out + i * 4, form.half_to_single(load(u16 * 16, halves + i * 2)))

    halves, out = np.arange(1 << 16, dtype=np.uint16), filled("f4", 1 << 16)
    call(body, halves, 1 << 16, out)
    with np.errstate(invalid="ignore"):  # some processors report signalling NaNs
        wanted = halves.view(np.float16).astype(np.float32)
    number = ~np.isnan(wanted)
    assert out[number].tobytes() == wanted[number].tobytes()
    assert np.isnan(out[~number]).all()


def rounding_cases() -> Array:
    """Every half, the singles halfway between neighbours, and those next to them."""
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64)
    middles = (halves[:-1] + halves[1:]) / 2
    near = np.concatenate([halves, middles, [65519.996, 65520, 65536, 1e30, 2**-25, 2**-26, 1e-45]])
    singles = near.astype(np.float32)
    around = [
        singles,
        np.nextafter(singles, np.float32(0)),
        np.nextafter(singles, np.float32(1e38)),
    ]
    cases = np.concatenate([*around, [np.inf, np.nan]]).astype(np.float32)
    cases = np.concatenate([cases, -cases])
    return np.resize(cases, -(-len(cases) // 16) * 16)


@cache
def _to_half_kernel(form: Generic) -> Kernel:
    def body(x: Value, n: Value, out: Value) -> None:
        for i in loop(0, n, 16):
            store(out + i * 2, form.single_to_half(load(f32 * 16, x + i * 4)))

    return fresh_kernel(body, 3)


def check_to_half(form: Generic, x: Array) -> None:
    out = filled("u2", len(x))
    _to_half_kernel(form)(x.ctypes.data, len(x), out.ctypes.data)
    with np.errstate(over="ignore", invalid="ignore"):
        wanted = x.astype(np.float16)
    number = ~np.isnan(x)
    assert np.array_equal(out[number], wanted[number].view(np.uint16))
    assert np.isnan(out[~number].view(np.float16)).all()


def test_singles_round_to_the_nearest_half_ties_to_even(form: Generic) -> None:
    check_to_half(form, rounding_cases())


@settings(max_examples=100, deadline=None)
@given(bits=hnp.arrays(np.uint32, 64))
def test_any_single_rounds_as_numpys(form: Generic, bits: Array) -> None:
    check_to_half(form, bits.view(np.float32))


def test_rounding_to_integers_is_to_even(form: Generic) -> None:
    def body(x: Value, out: Value) -> None:
        store(out, form.round_even(load(f32 * 16, x)))

    x = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 0.49999997, 4194303.5, 1e6 + 0.5] * 2, np.float32)
    out = filled("f4", 16)
    call(body, x, out)
    assert np.array_equal(out, np.rint(x))
