"""Q2_K: 16 sub-blocks of 16 two-bit codes, each with a 4-bit scale and minimum."""

from __future__ import annotations

from collections.abc import Iterator

from ggq.blocks._base import fields
from ggq.blocks._lanes import Lanes, Tile
from ggq.blocks._search import Grid, magnitude_weights
from ggq.blocks._subblocks import put_two_bits, quantize_scales, search_parts, set_codes
from ggq.blocks._super import SuperBlock
from ggq.blocks._view import Blocks
from ggq.jit.lang import Value, f32, i16, loop, u8, u16


class Q2_K(SuperBlock):
    """w = d * sc * q - dmin * m   (2.625 bits per weight)"""

    id = 10
    layout = fields(("scales", "u1", (16,)), ("qs", "u1", (64,)), ("d", "<f2"), ("dmin", "<f2"))
    group = 16
    has_minimum = True
    uses_importance = True

    def codes(self, blocks: Blocks, width: int) -> Iterator[tuple[list[int], Value]]:
        """Each half: 32 bytes, two bits of every byte for each of four runs of 32 weights."""
        return two_bit_codes(blocks, width)

    def scales(self, blocks: Blocks) -> Value:
        """The low nibbles."""
        return (blocks.bytes("scales") & 15).to(i16)

    def minima(self, blocks: Blocks) -> Value:
        """The high nibbles."""
        return (blocks.bytes("scales") >> 4).to(i16)

    def quantize_lanes(self, b: Lanes) -> None:
        """Source: llama.cpp ggml-quants.c, quantize_row_q2_K_ref and quantize_row_q2_K_impl."""
        parts = search_parts(b, 16, 3, Grid(-0.5, 0.1, 15, absolute=True), magnitude_weights)
        d, scales = quantize_scales(b, parts.scales, parts, 16, 15)
        dmin, minima = quantize_scales(b, parts.drops, parts, 16, 15)
        d, dmin = b.put_half("d", d), b.put_half("dmin", dmin)
        stored, steps, drops = Tile(16, u8), Tile(16), Tile(16)
        for j in loop(16):
            byte = scales[j] | minima[j] << 4
            stored[j] = byte.to(u8)
            steps[j], drops[j] = d * (byte & 15).to(f32), dmin * (byte >> 4 & 15).to(f32)
        b.put("scales", stored, 16)
        for block in b.each():
            set_codes(block, parts, steps, drops, 16, 3)
            put_two_bits(block, "qs")


def two_bit_codes(blocks: Blocks, width: int) -> Iterator[tuple[list[int], Value]]:
    """Codes of a super-block whose qs has two bits of every byte for each of four runs."""
    for at in range(0, 64, width):
        for run, codes in enumerate(two_bit_runs(blocks.bytes("qs", at, width))):
            starts = [128 * (c // 32) + 32 * run + c % 32 for c in range(at, at + width, 16)]
            yield starts, codes


def two_bit_runs(qs: Value) -> list[Value]:
    """u8[n] -> four u8[n]: bits 0..1, 2..3, 4..5, 6..7 of every byte."""
    n = qs.type.lanes
    pairs = qs.bits(u16 * (n // 2))
    return [(pairs >> shift).bits(u8 * n) & 3 for shift in (0, 2, 4, 6)]
