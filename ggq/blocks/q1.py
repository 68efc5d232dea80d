"""Q1_0: one bit a weight, its sign."""

from __future__ import annotations

from collections.abc import Iterator

from ggq.blocks._base import BlockType, fields
from ggq.blocks._view import Blocks
from ggq.jit.lang import Value, bit, select, splat


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
