"""Q8_0 and the activation forms Q8_1 and Q8_K: eight-bit codes."""

from __future__ import annotations

from collections.abc import Iterator

from ggq.blocks._base import BlockType, fields
from ggq.blocks._lanes import Lanes, Tile, lanes
from ggq.blocks._search import inverse_or_zero, largest, nearest_int, round_away
from ggq.blocks._small import SmallBlock
from ggq.blocks._view import Blocks
from ggq.jit.lang import (
    Value,
    absolute,
    f32,
    hsum,
    i8,
    i16,
    i32,
    load,
    loop,
    minimum,
    select,
    var,
    zeros,
)


class _SignedBytes(SmallBlock):
    parts = 1
    signed = True

    def codes(self, blocks: Blocks) -> list[Value]:
        """One signed byte per weight."""
        qs = blocks.bytes("qs")
        return [qs.bits(i8 * qs.type.lanes)]


class Q8_0(_SignedBytes):
    """w = d * q   (8.5 bits per weight)"""

    id = 8
    layout = fields(("d", "<f2"), ("qs", "i1", (32,)))

    def quantize_lanes(self, b: Lanes) -> None:
        """Source: llama.cpp ggml-quants.c, quantize_row_q8_0_ref."""
        d, inverse = _scale(b)
        b.put_half("d", d)
        _put_codes(b, inverse)


class Q8_1(_SignedBytes):
    """w = d * q, with s = d * sum(q); activations only."""

    id = 9
    layout = fields(("d", "<f2"), ("s", "<f2"), ("qs", "i1", (32,)))

    def quantize_lanes(self, b: Lanes) -> None:
        """Source: llama.cpp ggml-quants.c, quantize_row_q8_1_ref."""
        d, inverse = _scale(b)
        b.put_half("d", d)
        sum = var(zeros(lanes(i32)))
        for i in loop(32):
            sum += round_away(b.x[i] * inverse)
        b.put_half("s", sum.to(f32) * d)
        _put_codes(b, inverse)


class Q8_K(BlockType):
    """w = d * q, with the sums of 16 codes; activations only."""

    id = 15
    weights = 256
    layout = fields(("d", "<f4"), ("qs", "i1", (256,)), ("bsums", "<i2", (16,)))

    def singles(self, address: Value, step: int) -> Iterator[tuple[int, Value]]:
        """One signed byte per weight; the sums are for dot products."""
        d = load(f32, address)
        for first in range(0, 256, 16):
            yield first, load(i8 * 16, address + (4 + first)).to(f32) * d

    def quantize_lanes(self, b: Lanes) -> None:
        """Source: llama.cpp ggml-quants.c, quantize_row_q8_K_ref."""
        amax, signed = largest(b.x, 256)
        some = amax > 0.0
        inverse = -127.0 / signed
        b.put("d", select(some, 1.0 / inverse, 0.0))
        usable = some & absolute(inverse).ne(float("inf"))
        scale = Tile.of(select(usable, inverse, 0.0))
        for block in b.each():
            for i in loop(0, 256, block.step):
                code = minimum(nearest_int(scale.lane(block.lane) * block.x(i)), 127)
                block.set_codes(i, code)
            for i in loop(16):
                codes = block.codes(16 * i, 16).bits(i8 * 16)
                block.put("qs", codes, 16 * i)
                block.put("bsums", hsum(codes.to(i16)), i)


def _scale(b: Lanes) -> tuple[Value, Value]:
    """(largest magnitude / 127, its inverse)."""
    d = largest(b.x, 32)[0] / 127.0
    return d, inverse_or_zero(d)[0]


def _put_codes(b: Lanes, inverse: Value) -> None:
    scale = Tile.of(inverse)
    for block in b.each():
        for i in loop(0, 32, block.step):
            code = round_away(block.x(i) * scale.lane(block.lane))
            block.put("qs", code.to(i8), i)
