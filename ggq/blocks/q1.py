"""Q1_0: one bit a weight, its sign."""

from __future__ import annotations

from ggq.blocks._base import fields
from ggq.blocks._lanes import Lanes, lanes
from ggq.blocks._search import total
from ggq.blocks._small import SmallBlock
from ggq.blocks._view import Blocks
from ggq.jit.isa import target
from ggq.jit.lang import Value, absolute, const, i32, loop, select, u8, u32


class Q1_0(SmallBlock):
    """w = d * (q - 1), q = 0 or 2   (1.125 bits per weight)"""

    id = 41
    weights = 128
    layout = fields(("d", "<f2"), ("qs", "u1", (16,)))
    parts = 1
    offset = 1

    def codes(self, blocks: Blocks) -> list[Value]:
        """Eight weights in every byte, lowest bit first; a set bit is plus."""
        twos = const(u8 * (128 * blocks.count), 2)
        return [select(target().set_bits(blocks.bytes("qs")), twos, 0)]

    def quantize_lanes(self, b: Lanes) -> None:
        """Source: llama.cpp ggml-quants.c, quantize_row_q1_0_ref."""
        b.put_half("d", total(lambda i: absolute(b.x[i]), 128) / 128.0)
        for block in b.each():
            for i in loop(0, 128, block.step):
                block.set_codes(i, select(block.x(i) >= 0.0, const(lanes(i32), 1), 0))
            for at in range(0, 128, 32):
                block.put("qs", block.codes(at, 32).ne(0).bits(u32).bits(u8 * 4), at // 8)
