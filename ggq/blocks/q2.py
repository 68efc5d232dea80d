"""Q2_0: two bits a weight, four levels."""

from __future__ import annotations

from ggq.blocks._base import fields
from ggq.blocks._lanes import Lanes, Tile, lanes
from ggq.blocks._search import inverse_or_zero, largest, round_away
from ggq.blocks._small import SmallBlock
from ggq.blocks._view import Blocks
from ggq.jit.lang import Value, const, i32, loop, select, shuffle, u8, u32, u64


class Q2_0(SmallBlock):
    """w = d * (q - 1)   (2.25 bits per weight)"""

    id = 42
    weights = 64
    layout = fields(("d", "<f2"), ("qs", "u1", (16,)))
    parts = 1
    order = tuple(4 * i + k for k in range(4) for i in range(8))
    offset = 1

    def codes(self, blocks: Blocks) -> list[Value]:
        """Four weights in every byte, lowest bits first; eight bytes are a run."""
        runs = 2 * blocks.count
        each = shuffle(blocks.bytes("qs").bits(u64 * runs), [i // 4 for i in range(4 * runs)])
        return [(each >> const(u64 * (4 * runs), [0, 2, 4, 6] * runs)).bits(u8 * (32 * runs)) & 3]

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
