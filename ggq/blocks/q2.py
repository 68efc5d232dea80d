"""Q2_0: two bits a weight, four levels."""

from __future__ import annotations

from collections.abc import Iterator

from ggq.blocks._base import BlockType, fields
from ggq.blocks._lanes import Lanes, Tile, lanes
from ggq.blocks._search import inverse_or_zero, largest, round_away
from ggq.blocks._view import Blocks
from ggq.jit.lang import Value, const, f32, i32, loop, select, shuffle, u8, u32


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

    def quantize_lanes(self, b: Lanes) -> None:
        """Source: llama.cpp ggml-quants.c, quantize_row_q2_0_ref."""
        d, _ = largest(b.x, 64)
        b.put_half("d", d)
        inverse, overflows = inverse_or_zero(d)
        scale, shift = Tile.of(inverse), Tile.of(select(overflows, const(lanes(i32), 0), 1))
        for block in b.each():
            for i in loop(0, 64, block.step):
                code = round_away(block.x(i) * scale.lane(block.lane)) + shift.lane(block.lane)
                block.set_codes(i, code)
            codes = block.codes(0, 64).bits(u32 * 16)
            block.put("qs", (codes | codes >> 6 | codes >> 12 | codes >> 18).to(u8))
