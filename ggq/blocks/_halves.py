"""What Q4_0, Q4_1, Q5_0 and Q5_1 share in quantization: one scale per 32 weights, codes from it.

Source: llama.cpp ggml/src/ggml-quants.c, `quantize_row_q4_0_ref`, `quantize_row_q4_0_impl` and
those of the other three.
"""

from __future__ import annotations

from collections.abc import Iterator

from ggq.blocks._lanes import Block, Lanes, Tile, lanes
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
from ggq.jit.lang import Value, const, i32, loop, maximum, minimum, select, u32, var

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
    low, high = var(b.x[0]), var(b.x[0])
    for i in loop(1, SIZE):
        low.set(minimum(b.x[i], low))
        high.set(maximum(b.x[i], high))
    d = (high - low) / float(top)
    b.put_half("d", d)
    b.put_half("m", low)
    inverse, origin = Tile.of(inverse_or_zero(d)[0]), Tile.of(low)
    for block in b.each():
        for i in loop(0, SIZE, block.step):
            rise = block.x(i) - origin.lane(block.lane)
            code = (rise * inverse.lane(block.lane) + 0.5).to(i32)
            block.set_codes(i, minimum(code, top))
        yield block


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
