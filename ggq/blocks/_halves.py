"""What Q4_0, Q4_1, Q5_0 and Q5_1 share in quantization: one scale per 32 weights, codes from it.

Source: llama.cpp ggml/src/ggml-quants.c, `quantize_row_q4_0_ref`, `quantize_row_q4_0_impl` and
those of the other three.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from operator import or_
from typing import NamedTuple

from ggq.blocks._lanes import TOO_LARGE, Block, Lanes, Tile, lanes, magnitude
from ggq.blocks._search import (
    IMPORTANCE_GRID,
    affine,
    clamp,
    inverse_or_zero,
    largest,
    nearest_int,
    symmetric,
    weigh,
)
from ggq.jit.isa import target
from ggq.jit.lang import (
    Value,
    const,
    i32,
    i64,
    lane_bits,
    loop,
    maximum,
    minimum,
    select,
    shuffle,
    u32,
    var,
    when,
)

SIZE = 32


def coded_signed(b: Lanes, top: int) -> Iterator[Block]:
    """Write d and make codes 0..2 top - 1 of w = d * (code - top), block after block."""
    if b.weighted:
        fit = symmetric(b.x, _importance(b), SIZE, top)
        b.put_half("d", fit.scale)
        inverse = Tile.of(fit.inverse)
        for block in b.each():
            scale = inverse.lane(block.lane)
            for i in loop(0, SIZE, block.step):
                code = clamp(nearest_int(scale * block.x(i)), -top, top - 1) + top
                block.set_codes(i, select(scale.eq(0.0), 0, code))
            yield block
        return
    _, signed = largest(b.x, SIZE)
    d = signed / -float(top)
    b.put_half("d", d)
    scale, overflows = inverse_or_zero(d)
    inverse, shift = Tile.of(scale), Tile.of(select(overflows, 0.0, const(lanes(), top + 0.5)))
    for block in b.each():
        for i in loop(0, SIZE, block.step):
            code = block.x(i) * inverse.lane(block.lane) + shift.lane(block.lane)
            block.set_codes(i, minimum(code.to(i32), 2 * top - 1))
        yield block


def coded_unsigned(b: Lanes, top: int) -> Iterator[Block]:
    """Write d and m and make codes 0..top of w = d * code + m, block after block."""
    if b.weighted:
        b.load()
        fit = affine(b.x, _importance(b), SIZE, top, IMPORTANCE_GRID)
        b.put_half("d", fit.scale)
        b.put_half("m", fit.low)
        inverse, origin = Tile.of(fit.inverse), Tile.of(fit.origin)
        for block in b.each():
            for i in loop(0, SIZE, block.step):
                rise = block.x(i) - origin.lane(block.lane)
                code = nearest_int(inverse.lane(block.lane) * rise)
                block.set_codes(i, clamp(code, 0, top))
            yield block
        return
    low, high = _extremes(b)
    d = (high - low) / float(top)
    scales, minima = Tile.of(b.half(d)), Tile.of(b.half(low))
    inverse, origin = Tile.of(inverse_or_zero(d)[0]), Tile.of(low)
    for block in b.each():
        block.put("d", scales.lane(block.lane))
        block.put("m", minima.lane(block.lane))
        for first in range(0, SIZE, block.step):
            rise = block.x(first) - origin.lane(block.lane)
            code = (rise * inverse.lane(block.lane) + 0.5).to(i32)
            block.set_codes(first, minimum(code, top))
        yield block


def _extremes(b: Lanes) -> tuple[Value, Value]:
    """(lowest, highest weight) of each block; those that cannot be stored are refused.

    Vectors of a block are compared with each other, which is quick but not the order of the C code.
    That matters where the lowest are zeros, for the first one's sign is kept, and for NaN: such
    blocks are looked at again.
    """
    spread = _spread(b, 0, target().lanes)
    low, high = var(spread.low), var(spread.high)
    peak = maximum(magnitude(spread.low), magnitude(spread.high))
    with when(lane_bits(spread.has_nan | (peak >= TOO_LARGE) | spread.low.eq(0.0)).ne(0)):
        b.load()
        low.set(b.x[0])
        high.set(b.x[0])
        for i in loop(1, SIZE):
            low.set(minimum(b.x[i], low))
            high.set(maximum(b.x[i], high))
    return low.value, high.value


class _Spread(NamedTuple):
    """Lowest and highest of some blocks, each in as many lanes; whether any lane met a NaN."""

    low: Value
    high: Value
    has_nan: Value


def _spread(b: Lanes, first: int, count: int) -> _Spread:
    """Of blocks first, ..., first + count - 1."""
    n = target().lanes
    if count == 1:
        block = b.block(const(i64, first))
        parts = [block.x(i) for i in range(0, SIZE, n)]
        has_nan = [part.ne(part) for part in parts]
        return _Spread(reduce(minimum, parts), reduce(maximum, parts), reduce(or_, has_nan))
    half, part = count // 2, n // count
    one, two = _spread(b, first, half), _spread(b, first + half, half)
    kept = [i for i in range(2 * n) if not i & part]
    folded = [i + part for i in kept]
    low, high = (
        f(shuffle(x, kept, y), shuffle(x, folded, y))
        for f, x, y in ((minimum, one.low, two.low), (maximum, one.high, two.high))
    )
    return _Spread(low, high, one.has_nan | two.has_nan)


def _importance(b: Lanes) -> Tile:
    w = Tile(SIZE)
    b.importance(w, 0, SIZE)
    weigh(w, b.x, SIZE, b.row_mean_square())
    return w


def put_nibbles(block: Block, at: Value | int = 0) -> None:
    """Write four bits of codes 0..31 from byte `at` on: a byte for two codes 16 apart."""
    low, high = block.codes(0, 16) & 15, block.codes(16, 16) << 4
    block.put("qs", low | high, at)


def put_top_bits(block: Block) -> None:
    """Write the fifth bit of every code, the first one lowest."""
    block.put("qh", (block.codes(0, SIZE) >> 4).ne(0).bits(u32))
