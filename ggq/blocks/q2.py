"""Q2_0: two bits a weight, four levels."""

from __future__ import annotations

from collections.abc import Iterator

from ggq.blocks._base import BlockType, fields
from ggq.blocks._view import Blocks
from ggq.jit.lang import Value, const, f32, i32, shuffle, u8


class Q2_0(BlockType):
    """w = d * (q - 1)   (2.25 bits per weight)"""

    id = 42
    weights = 64
    layout = fields(("d", "<f2"), ("qs", "u1", (16,)))

    def singles(self, address: Value, step: int) -> Iterator[tuple[int, Value]]:
        """Four weights in every byte, lowest bits first."""
        blocks = Blocks(self, address)
        d, qs = blocks.half("d"), blocks.bytes("qs")
        for first in range(0, 64, 16):
            each = shuffle(qs, [(first + i) // 4 for i in range(16)])
            codes = (each >> const(u8 * 16, [0, 2, 4, 6] * 4)) & 3
            yield first, (codes.to(i32) - 1).to(f32) * d
