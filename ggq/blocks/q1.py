"""Q1_0: one bit a weight, its sign."""

from __future__ import annotations

from collections.abc import Iterator

from ggq.blocks._base import BlockType, fields
from ggq.blocks._lanes import Lanes, lanes
from ggq.blocks._search import total
from ggq.blocks._view import Blocks
from ggq.jit.lang import Value, absolute, bit, const, i32, loop, select, splat, u8, u32


class Q1_0(BlockType):
    """w = +-d   (1.125 bits per weight)"""

    id = 41
    weights = 128
    layout = fields(("d", "<f2"), ("qs", "u1", (16,)))

    def singles(self, address: Value, step: int) -> Iterator[tuple[int, Value]]:
        """Eight weights in every byte, lowest bit first; a set bit is plus."""
        blocks = Blocks(self, address)
        d = splat(blocks.half("d"), 16)
        for first in range(0, 128, 16):
            plus = blocks.bytes("qs", first // 8, 2).bits(bit * 16)
            yield first, select(plus, d, -d)

    def quantize_lanes(self, b: Lanes) -> None:
        """Source: llama.cpp ggml-quants.c, quantize_row_q1_0_ref."""
        b.put_half("d", total(lambda i: absolute(b.x[i]), 128) / 128.0)
        for block in b.each():
            for i in loop(0, 128, block.step):
                block.set_codes(i, select(block.x(i) >= 0.0, const(lanes(i32), 1), 0))
            for at in range(0, 128, 32):
                block.put("qs", block.codes(at, 32).ne(0).bits(u32).bits(u8 * 4), at // 8)
