"""Q3_K: 16 sub-blocks of 16 three-bit codes, each with a 6-bit signed scale."""

from __future__ import annotations

from collections.abc import Iterator

from ggq.blocks._base import fields
from ggq.blocks._super import SuperBlock
from ggq.blocks._view import Blocks
from ggq.blocks.q2_k import two_bit_runs
from ggq.jit.lang import Value, concat, const, i16, load, select, shuffle, u8, u32


class Q3_K(SuperBlock):
    """w = d * (sc - 32) * (q - 4)   (3.4375 bits per weight)"""

    id = 11
    layout = fields(
        ("hmask", "u1", (32,)), ("qs", "u1", (64,)), ("scales", "u1", (12,)), ("d", "<f2")
    )
    group = 16
    offset = 4

    def codes(self, blocks: Blocks, width: int) -> Iterator[tuple[list[int], Value]]:
        """Two bits as in Q2_K; bit j of hmask[i] tops weight i of the run of 32 number j."""
        for at in range(0, 64, width):
            qs = blocks.bytes("qs", at, width)
            top = blocks.bytes("hmask", at % 32, min(width, 32))
            top = concat(top, top) if width == 64 else top
            half = [(at + c) // 32 for c in range(width)]
            for run, low in enumerate(two_bit_runs(qs)):
                tops = (top & const(u8 * width, [1 << (4 * h + run) for h in half])).ne(0)
                starts = [128 * half[c] + 32 * run + (at + c) % 32 for c in range(0, width, 16)]
                yield starts, select(tops, low | 4, low)

    def scales(self, blocks: Blocks) -> Value:
        """Nibbles of 8 bytes, topped by two-bit pieces of the last 4."""
        words = load(u32 * 4, blocks.address + 92)  # the first is the end of qs
        low = (shuffle(words, [1, 2, 1, 2]) >> const(u32 * 4, [0, 0, 4, 4])) & 0x0F0F0F0F
        top = (shuffle(words, [3] * 4) >> const(u32 * 4, [0, 2, 4, 6])) & 0x03030303
        return (low | (top << 4)).bits(u8 * 16).to(i16) - 32
