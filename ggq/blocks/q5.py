"""Q5_0 and Q5_1: 32 five-bit codes with one scale, and one minimum in Q5_1."""

from __future__ import annotations

from ggq.blocks._base import fields
from ggq.blocks._halves import coded_signed, coded_unsigned, put_nibbles, put_top_bits
from ggq.blocks._lanes import Lanes
from ggq.blocks._small import SmallBlock, high_nibbles, low_nibbles
from ggq.blocks._view import Blocks
from ggq.jit.lang import Value, const, select, zeros


class Q5_0(SmallBlock):
    """w = d * (q - 16)   (5.5 bits per weight)"""

    id = 6
    layout = fields(("d", "<f2"), ("qh", "u1", (4,)), ("qs", "u1", (16,)))
    offset = 16
    uses_importance = True
    uses_row_squares = True

    def codes(self, blocks: Blocks) -> list[Value]:
        """Nibbles as in Q4_0, topped by the bits of qh."""
        return _five_bit_codes(blocks)

    def quantize_lanes(self, b: Lanes) -> None:
        """Source: llama.cpp ggml-quants.c, quantize_row_q5_0_ref and _impl."""
        for block in coded_signed(b, 16):
            put_nibbles(block)
            put_top_bits(block)


class Q5_1(SmallBlock):
    """w = d * q + m   (6 bits per weight)"""

    id = 7
    layout = fields(("d", "<f2"), ("m", "<f2"), ("qh", "u1", (4,)), ("qs", "u1", (16,)))
    has_minimum = True
    uses_importance = True
    uses_row_squares = True
    loads_lanes = False

    def codes(self, blocks: Blocks) -> list[Value]:
        """Nibbles as in Q4_1, topped by the bits of qh."""
        return _five_bit_codes(blocks)

    def quantize_lanes(self, b: Lanes) -> None:
        """Source: llama.cpp ggml-quants.c, quantize_row_q5_1_ref and _impl."""
        for block in coded_unsigned(b, 31):
            put_nibbles(block)
            put_top_bits(block)


def _five_bit_codes(blocks: Blocks) -> list[Value]:
    """Weights 0..15 in the low nibbles, 16..31 in the high ones; bit i of qh tops weight i."""
    qs = blocks.bytes("qs")
    bits = const(qs.type, [1 << i % 8 for i in range(qs.type.lanes)])
    out = []
    for half, low in enumerate((low_nibbles(qs), high_nibbles(qs))):
        qh = blocks.spread("qh", [2 * half] * 8 + [2 * half + 1] * 8)
        out.append(low | select((qh & bits).ne(0), const(qs.type, 16), zeros(qs.type)))
    return out
