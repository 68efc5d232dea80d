"""Q4_K: 8 sub-blocks of 32 four-bit codes, each with a 6-bit scale and minimum."""

from __future__ import annotations

from collections.abc import Iterator

from ggq.blocks._base import fields
from ggq.blocks._lanes import Lanes
from ggq.blocks._search import Grid, rms_weights
from ggq.blocks._six_bit import six_bit_minima, six_bit_scales
from ggq.blocks._small import high_nibbles, low_nibbles
from ggq.blocks._subblocks import put_nibbles, put_scales, search_parts, set_codes
from ggq.blocks._super import SuperBlock
from ggq.blocks._view import Blocks
from ggq.jit.lang import Value


class Q4_K(SuperBlock):
    """w = d * sc * q - dmin * m   (4.5 bits per weight)"""

    id = 12
    layout = fields(("d", "<f2"), ("dmin", "<f2"), ("scales", "u1", (12,)), ("qs", "u1", (128,)))
    group = 32
    has_minimum = True
    uses_importance = True

    def codes(self, blocks: Blocks, width: int) -> Iterator[tuple[list[int], Value]]:
        """32 bytes hold two sub-blocks: one in the low nibbles, the next in the high ones."""
        for at in range(0, 128, width):
            qs = blocks.bytes("qs", at, width)
            starts = [64 * (c // 32) + c % 32 for c in range(at, at + width, 16)]
            yield starts, low_nibbles(qs)
            yield [s + 32 for s in starts], high_nibbles(qs)

    def scales(self, blocks: Blocks) -> Value:
        """Six bits each."""
        return six_bit_scales(blocks)

    def minima(self, blocks: Blocks) -> Value:
        """Six bits each."""
        return six_bit_minima(blocks)

    def quantize_lanes(self, b: Lanes) -> None:
        """Source: llama.cpp ggml-quants.c, quantize_row_q4_K_ref and quantize_row_q4_K_impl."""
        parts = search_parts(b, 32, 15, Grid(-1.0, 0.1, 20), rms_weights)
        steps, drops = put_scales(b, parts, limit=not b.weighted)
        for block in b.each():
            set_codes(block, parts, steps, drops, 32, 15)
            put_nibbles(block, "qs")
