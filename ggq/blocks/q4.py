"""Q4_0 and Q4_1: 32 four-bit codes with one scale, and one minimum in Q4_1."""

from __future__ import annotations

from ggq.blocks._base import fields
from ggq.blocks._halves import coded_signed, coded_unsigned, put_nibbles
from ggq.blocks._lanes import Lanes
from ggq.blocks._small import SmallBlock, high_nibbles, low_nibbles
from ggq.blocks._view import Blocks
from ggq.jit.lang import Value


class Q4_0(SmallBlock):
    """w = d * (q - 8)   (4.5 bits per weight)"""

    id = 2
    layout = fields(("d", "<f2"), ("qs", "u1", (16,)))
    offset = 8
    uses_importance = True
    uses_row_squares = True

    def codes(self, blocks: Blocks) -> list[Value]:
        """Weights 0..15 in the low nibbles, 16..31 in the high ones."""
        qs = blocks.bytes("qs")
        return [low_nibbles(qs), high_nibbles(qs)]

    def quantize_lanes(self, b: Lanes) -> None:
        """Source: llama.cpp ggml-quants.c, quantize_row_q4_0_ref and _impl."""
        for block in coded_signed(b, 8):
            put_nibbles(block)


class Q4_1(SmallBlock):
    """w = d * q + m   (5 bits per weight)"""

    id = 3
    layout = fields(("d", "<f2"), ("m", "<f2"), ("qs", "u1", (16,)))
    has_minimum = True
    uses_importance = True
    uses_row_squares = True
    loads_lanes = False

    def codes(self, blocks: Blocks) -> list[Value]:
        """Weights 0..15 in the low nibbles, 16..31 in the high ones."""
        qs = blocks.bytes("qs")
        return [low_nibbles(qs), high_nibbles(qs)]

    def quantize_lanes(self, b: Lanes) -> None:
        """Source: llama.cpp ggml-quants.c, quantize_row_q4_1_ref and _impl."""
        for block in coded_unsigned(b, 15):
            put_nibbles(block)
