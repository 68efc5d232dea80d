"""Q5_K: 8 sub-blocks of 32 five-bit codes, each with a 6-bit scale and minimum."""

from __future__ import annotations

from collections.abc import Iterator

from ggq.blocks._base import fields
from ggq.blocks._lanes import Lanes
from ggq.blocks._search import Grid, rms_weights
from ggq.blocks._six_bit import six_bit_minima, six_bit_scales
from ggq.blocks._small import high_nibbles, low_nibbles, moved_bit
from ggq.blocks._subblocks import (
    put_nibbles,
    put_one_bit,
    put_scales,
    search_parts,
    set_codes,
)
from ggq.blocks._super import SuperBlock
from ggq.blocks._view import Blocks
from ggq.jit.lang import Value, concat


class Q5_K(SuperBlock):
    """w = d * sc * q - dmin * m   (5.5 bits per weight)"""

    id = 13
    layout = fields(
        ("d", "<f2"),
        ("dmin", "<f2"),
        ("scales", "u1", (12,)),
        ("qh", "u1", (32,)),
        ("qs", "u1", (128,)),
    )
    group = 32
    has_minimum = True
    uses_importance = True

    def codes(self, blocks: Blocks, width: int) -> Iterator[tuple[list[int], Value]]:
        """Nibbles as in Q4_K; bit j of qh[i] tops weight i of sub-block j."""
        for at in range(0, 128, width):
            qs = blocks.bytes("qs", at, width)
            qh = blocks.bytes("qh", at % 32, min(width, 32))
            qh = concat(qh, qh) if width == 64 else qh
            pairs = [2 * ((at + c) // 32) for c in range(0, width, 4)]
            starts = [32 * pairs[c // 4] + (at + c) % 32 for c in range(0, width, 16)]
            yield starts, low_nibbles(qs) | moved_bit(qh, pairs, 4)
            odd = [p + 1 for p in pairs]
            yield [s + 32 for s in starts], high_nibbles(qs) | moved_bit(qh, odd, 4)

    def scales(self, blocks: Blocks) -> Value:
        """Six bits each."""
        return six_bit_scales(blocks)

    def minima(self, blocks: Blocks) -> Value:
        """Six bits each."""
        return six_bit_minima(blocks)

    def quantize_lanes(self, b: Lanes) -> None:
        """Source: llama.cpp ggml-quants.c, quantize_row_q5_K_ref and quantize_row_q5_K_impl."""
        parts = search_parts(b, 32, 31, Grid(-0.5, 0.1, 15), rms_weights)
        steps, drops = put_scales(b, parts, limit=True)
        for block in b.each():
            set_codes(block, parts, steps, drops, 32, 31)
            put_nibbles(block, "qs")
            put_one_bit(block, "qh", shift=4)
