"""MXFP4 and NVFP4: four-bit floats (E2M1) with a shared power or byte float as scale."""

from __future__ import annotations

import math

from ggq.blocks._base import fields
from ggq.blocks._halves import put_nibbles
from ggq.blocks._lanes import Lanes, Tile, lanes
from ggq.blocks._search import largest
from ggq.blocks._small import SmallBlock, high_nibbles, low_nibbles
from ggq.blocks._view import Blocks
from ggq.jit.isa import target
from ggq.jit.lang import (
    Value,
    absolute,
    const,
    f32,
    gather,
    i32,
    i64,
    loop,
    maximum,
    minimum,
    select,
    table,
    u8,
    u32,
)

# E2M1 doubled, so that codes are whole; scales are halved in turn.
# Source: llama.cpp ggml-common.h kvalues_fp4.
VALUES = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)
LARGEST = 12
CODES = tuple(value + LARGEST for value in VALUES)


class MXFP4(SmallBlock):
    """w = 2^(e - 128) * T[q]: E2M1 codes with an E8M0 scale   (4.25 bits per weight)"""

    id = 39
    layout = fields(("e", "u1"), ("qs", "u1", (16,)))
    offset = LARGEST

    def codes(self, blocks: Blocks) -> list[Value]:
        """Weights 0..15 in the low nibbles, 16..31 in the high ones."""
        return _codes(blocks)

    def scale(self, blocks: Blocks) -> Value:
        """2^(e - 128), subnormal below e = 2."""
        e = blocks.byte("e").to(u32)
        return _half_power(e)

    def quantize_lanes(self, b: Lanes) -> None:
        """Source: llama.cpp ggml-quants.c, quantize_row_mxfp4_ref."""
        amax, _ = largest(b.x, 32)
        e = select(amax > 0.0, (_floor_log2(amax) + (127 - 2)) & 255, 0)
        b.put("e", e.to(u8))
        scale = Tile.of(_half_power(e.to(u32)))
        for block in b.each():
            for i in loop(0, 32, block.step):
                block.set_codes(i, _nearest(block.x(i), scale.lane(block.lane)))
            put_nibbles(block)


class NVFP4(SmallBlock):
    """w = d / 2 * T[q]: E2M1 codes with a UE4M3 scale per 16   (4.5 bits per weight)"""

    id = 40
    weights = 64
    layout = fields(("d", "u1", (4,)), ("qs", "u1", (32,)))
    run = 16
    offset = LARGEST

    def codes(self, blocks: Blocks) -> list[Value]:
        """Every 16 weights: 8 bytes, the first eight in the low nibbles, then the high ones."""
        return _codes(blocks)

    def scale(self, blocks: Blocks) -> Value:
        """d / 2, one for each run."""
        each = blocks.repeat // self.runs
        return _half_of_ue4m3(blocks.spread("d", [k // each for k in range(blocks.repeat)]))

    def quantize_lanes(self, b: Lanes) -> None:
        """Source: llama.cpp ggml-quants.c, quantize_row_nvfp4_ref."""
        stored, scales = Tile(4, u8), Tile(4)
        for j in loop(4):
            d = _to_ue4m3(largest(b.x.part(16 * j), 16)[0] / 6.0)
            stored[j], scales[j] = d.to(u8), (d << 20).bits(lanes()) * 2.0**119
        b.put("d", stored, 4)
        for block in b.each():
            for j in loop(4):
                scale = scales.lane(block.lane, j)
                for i in loop(16 * j, 16 * j + 16, block.step):
                    block.set_codes(i, _nearest(block.x(i), scale))
                low, high = block.codes(16 * j, 8), block.codes(16 * j + 8, 8)
                block.put("qs", low | high << 4, 8 * j)


def _codes(blocks: Blocks) -> list[Value]:
    qs = blocks.bytes("qs")
    n = qs.type.lanes
    return [target().lookup16(CODES, q).bits(u8 * n) for q in (low_nibbles(qs), high_nibbles(qs))]


def _half_power(e: Value) -> Value:
    """2^(e - 128), subnormal below e = 2."""
    subnormal = const(e.type, 1 << 21) << minimum(e, 1)
    return select(e < 2, subnormal, (e - 1) << 23).bits(f32 * e.type.lanes)


def _nearest(x: Value, scale: Value) -> Value:
    """i32 codes of the nearest values of the table, the first of equally near ones."""
    magnitude = absolute(x)
    best, code = magnitude, const(i32 * x.type.lanes, 0)
    for k, value in enumerate(VALUES[1:8], 1):
        error = absolute(scale * float(value) - magnitude)
        nearer = error < best
        best, code = select(nearer, error, best), select(nearer, const(code.type, k), code)
    return select((x < 0.0) & (code > 0), code + 8, code)


def _floor_log2(x: Value) -> Value:
    """i32: the C library's log2f(x), rounded down. x > 0.

    log2f is itself rounded: numbers so little below a power of two are already taken for it.
    """
    tiny = x < 2.0**-64
    scaled = select(tiny, x * 2.0**64, x).bits(u32 * x.type.lanes)
    exponent = (scaled >> 23).to(i32) - select(tiny, const(lanes(i32), 127 + 64), 127)
    exponent = maximum(exponent, -150)
    slack = table(i32, [_slack(n) for n in range(-149, 130)])
    above = gather(i32, slack + (exponent + (1 + 149)).to(i64) * 4)
    up = (scaled & 0x7FFFFF).to(i32) + above >= 0x800000
    return select(up, exponent + 1, exponent)


def _slack(n: int) -> int:
    """How many of the singles below 2^n have a logarithm that rounds to n."""
    if abs(n) < 2:
        return 0
    half_step = 2.0 ** ((n - 1 if n > 0 else -n).bit_length() - 1 - 23) / 2
    return int(half_step * math.log(2) * 2**24)


def _to_ue4m3(x: Value) -> Value:
    """u32 bits of the nearest byte float, at most 448; rounded by the bit below, not to even."""
    bits = minimum(x, 448.0).bits(lanes(u32))
    normal = (bits >> 20) + ((bits >> 19) & 1) - (120 << 3)
    normal = select(normal < 15 << 3, normal, 0x7E)  # from 256 on it is 448
    subnormal = minimum((x * 512.0 + 0.5).to(i32), 7).to(u32)
    return select(bits < (121 << 23), subnormal, normal)


def _half_of_ue4m3(x: Value) -> Value:
    """f32[n]: half the values of unsigned byte floats with 4 exponent and 3 mantissa bits.

    0x7F is their NaN; the reference reads that as zero and ignores the top bit.
    """
    # Shifted into place the exponent is 119 too small; the product also corrects subnormals.
    wide = (x & 0x7F).to(u32)
    bits = select(x.eq(0x7F), const(wide.type, 0), wide << 20)
    return bits.bits(f32 * x.type.lanes) * 2.0**119
