"""MXFP4 and NVFP4: four-bit floats (E2M1) with a shared power or byte float as scale."""

from __future__ import annotations

from collections.abc import Iterator

from ggq.blocks._base import BlockType, fields
from ggq.blocks._small import SmallBlock, high_nibbles, low_nibbles
from ggq.blocks._view import Blocks
from ggq.jit.isa import target
from ggq.jit.lang import Value, concat, const, f32, load, select, u8, u32

# E2M1 doubled, so that codes are whole; scales are halved in turn.
# Source: llama.cpp ggml-common.h kvalues_fp4.
VALUES = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)


class MXFP4(SmallBlock):
    """w = 2^(e - 128) * T[q]: E2M1 codes with an E8M0 scale   (4.25 bits per weight)"""

    id = 39
    layout = fields(("e", "u1"), ("qs", "u1", (16,)))
    signed = True

    def codes(self, blocks: Blocks) -> list[Value]:
        """Weights 0..15 in the low nibbles, 16..31 in the high ones."""
        qs = blocks.bytes("qs")
        return [target().lookup16(VALUES, q) for q in (low_nibbles(qs), high_nibbles(qs))]

    def scale(self, blocks: Blocks) -> Value:
        """2^(e - 128), subnormal below e = 2."""
        e = blocks.byte("e").to(u32)
        bits = select(e < 2, const(e.type, 0x200000) << e, (e - 1) << 23)
        return bits.bits(f32 * bits.type.lanes)


class NVFP4(BlockType):
    """w = d / 2 * T[q]: E2M1 codes with a UE4M3 scale per 16   (4.5 bits per weight)"""

    id = 40
    weights = 64
    layout = fields(("d", "u1", (4,)), ("qs", "u1", (32,)))

    def singles(self, address: Value, step: int) -> Iterator[tuple[int, Value]]:
        """Every 16 weights: 8 bytes, the first eight in the low nibbles, then the high ones."""
        for group in range(4):
            qs = load(u8 * 8, address + (4 + 8 * group))
            codes = target().lookup16(VALUES, concat(low_nibbles(qs), high_nibbles(qs)))
            d = _half_of_ue4m3(load(u8, address + group).to(u32))
            yield 16 * group, codes.to(f32) * d


def _half_of_ue4m3(x: Value) -> Value:
    """f32 scalar: half the value of an unsigned byte float with 4 exponent and 3 mantissa bits.

    0x7F is its NaN; the reference reads that as zero and ignores the top bit.
    """
    # Shifted into place the exponent is 119 too small; the product also corrects subnormals.
    scaled = ((x & 0x7F) << 20).bits(f32) * 2.0**119
    return select(x.eq(0x7F), const(f32, 0.0), scaled)
