"""IQ4_NL and IQ4_XS: four-bit indices into a table of 16 unevenly spaced values."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from ggq.blocks._base import fields
from ggq.blocks._halves import put_nibbles
from ggq.blocks._lanes import Lanes, Tile, lanes
from ggq.blocks._search import (
    SMALLEST_GROUP,
    best_ratio,
    clamp,
    inverse_or_zero,
    largest,
    nearest_int,
    square_weights,
    sum_squares,
    weigh,
)
from ggq.blocks._small import SmallBlock, high_nibbles, low_nibbles
from ggq.blocks._super import SuperBlock
from ggq.blocks._view import Blocks
from ggq.jit.isa import target
from ggq.jit.lang import Value, const, f32, i16, i32, load, loop, select, splat, u8, u16, u32, zeros

# Source: llama.cpp ggml-common.h kvalues_iq4nl.
VALUES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


class IQ4_NL(SmallBlock):
    """w = d * T[q]   (4.5 bits per weight)"""

    id = 20
    layout = fields(("d", "<f2"), ("qs", "u1", (16,)))
    signed = True
    uses_importance = True

    def codes(self, blocks: Blocks) -> list[Value]:
        """Weights 0..15 in the low nibbles, 16..31 in the high ones."""
        qs = blocks.bytes("qs")
        return [target().lookup16(VALUES, q) for q in (low_nibbles(qs), high_nibbles(qs))]

    def quantize_lanes(self, b: Lanes) -> None:
        """Source: llama.cpp ggml-quants.c, quantize_row_iq4_nl_impl with blocks of 32."""
        scale = _search(b, 0, sum_squares(b.x, 32) * (2.0 / 32))
        b.put_half("d", scale)
        inverse = Tile.of(inverse_or_zero(scale)[0])
        for block in b.each():
            for i in loop(0, 32, block.step):
                block.set_codes(i, _nearest(inverse.lane(block.lane) * block.x(i)))
            put_nibbles(block)


class IQ4_XS(SuperBlock):
    """w = d * (sc - 32) * T[q]   (4.25 bits per weight)"""

    id = 23
    layout = fields(
        ("d", "<f2"), ("scales_h", "<u2"), ("scales_l", "u1", (4,)), ("qs", "u1", (128,))
    )
    group = 32
    signed = True
    narrow = False
    uses_importance = True

    def codes(self, blocks: Blocks, width: int) -> Iterator[tuple[list[int], Value]]:
        """16 bytes hold a sub-block: its first half in the low nibbles, its second in the high."""
        for at in range(0, 128, width):
            qs = blocks.bytes("qs", at, width)
            starts = [2 * c for c in range(at, at + width, 16)]
            yield starts, target().lookup16(VALUES, low_nibbles(qs))
            yield [s + 16 for s in starts], target().lookup16(VALUES, high_nibbles(qs))

    def scales(self, blocks: Blocks) -> Value:
        """Four bits each in scales_l, two more in scales_h."""
        low = splat(load(u32, blocks.address + 4), 8) >> const(u32 * 8, range(0, 32, 4))
        high = splat(load(u16, blocks.address + 2), 8) >> const(u16 * 8, range(0, 16, 2))
        return ((low.to(u16) & 15) | ((high & 3) << 4)).to(i16) - 32

    def quantize_lanes(self, b: Lanes) -> None:
        """Source: llama.cpp ggml-quants.c, quantize_row_iq4_nl_impl with super-blocks."""
        scales, inverses, codes = Tile(8), Tile(8), []
        square = sum_squares(b.x, 256) * (2.0 / 256)
        for j in loop(8):
            scales[j] = _search(b, 32 * j, square)
            b.refuse(scales[j].ne(scales[j]))
        d = largest(scales, 8)[1] / -32.0
        b.put_half("d", d)
        inverse = inverse_or_zero(d)[0]
        for k in range(8):
            code = clamp(nearest_int(inverse * scales[k]), -32, 31)
            inverses[k] = inverse_or_zero(d * code.to(f32))[0]
            codes.append(code + 32)
        pairs = [codes[2 * j] & 15 | (codes[2 * j + 1] & 15) << 4 for j in range(4)]
        b.put("scales_l", Tile.of(*(pair.to(u8) for pair in pairs)), 4)
        high = zeros(lanes(i32))
        for k, code in enumerate(codes):
            high = high | code >> 4 << 2 * k
        b.put("scales_h", high.to(u16))
        for block in b.each():
            for j in loop(8):
                inverse = inverses.lane(block.lane, j)
                for i in loop(0, 32, block.step):
                    block.set_codes(i, _nearest(inverse * block.x(32 * j + i)))
                put_nibbles(block, 16 * j)


def _search(b: Lanes, start: Value | int, square: Value) -> Value:
    """Scale of 32 weights; the largest one is tried at levels around the first of the table."""
    x, w = b.x.part(start), Tile(32)
    if b.weighted:
        b.importance(w, start, 32)
        weigh(w, x, 32, square)
    else:
        square_weights(w, x, 32)
    amax, signed = largest(x, 32)
    top = float(VALUES[0])
    tries = [top + i for i in range(-7, 8)]

    def terms(i: Value, level: Value) -> tuple[Value, Value]:
        return w[i] * level * x[i], w[i] * level * level

    found = best_ratio(x, 32, _level, terms, 1.0 / (-signed / top), tries, signed)
    return select(amax >= SMALLEST_GROUP, found.scale, 0.0)


# A value goes to the upper of two neighbours from their middle on; that is exact in singles.
_MIDDLES = [(a + b) / 2 for a, b in pairwise(VALUES)]


def _level(y: Value) -> Value:
    """f32 value of the table nearest to y."""
    level = const(y.type, VALUES[0])
    for middle, value in zip(_MIDDLES, VALUES[1:], strict=True):
        level = select(y >= middle, const(y.type, value), level)
    return level


def _nearest(y: Value) -> Value:
    """i32 index of that value."""
    index = const(i32 * y.type.lanes, 0)
    for i, middle in enumerate(_MIDDLES):
        index = select(y >= middle, const(index.type, i + 1), index)
    return index
