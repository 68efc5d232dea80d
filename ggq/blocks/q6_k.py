"""Q6_K: 16 sub-blocks of 16 six-bit codes, each with an 8-bit signed scale."""

from __future__ import annotations

from collections.abc import Iterator

from ggq.blocks._base import fields
from ggq.blocks._small import high_nibbles, low_nibbles
from ggq.blocks._super import SuperBlock
from ggq.blocks._view import Blocks
from ggq.jit.lang import Value, concat, const, i8, i16, load, u8, u32


class Q6_K(SuperBlock):
    """w = d * sc * (q - 32)   (6.5625 bits per weight)"""

    id = 14
    layout = fields(
        ("ql", "u1", (128,)), ("qh", "u1", (64,)), ("scales", "i1", (16,)), ("d", "<f2")
    )
    group = 16
    offset = 32

    def codes(self, blocks: Blocks, width: int) -> Iterator[tuple[list[int], Value]]:
        """Each half: 64 bytes of low nibbles, then 32 bytes with the upper two bits of four."""
        words = width // 4
        for at in range(0, 128, width):
            half, place = at // 64, at % 64
            ql = blocks.bytes("ql", at, width)
            # Both quarters of a half share the bytes of qh, two bits further up in the second.
            quarter = [(place + 4 * k) // 32 for k in range(words)]
            qh = blocks.bytes("qh", 32 * half + place % 32, min(width, 32))
            qh = (concat(qh, qh) if width == 64 else qh).bits(u32 * words)
            low = (qh << const(u32 * words, [4 - 2 * q for q in quarter])) & 0x30303030
            high = (qh >> const(u32 * words, [2 * q for q in quarter])) & 0x30303030
            starts = [128 * half + place + c for c in range(0, width, 16)]
            yield starts, low_nibbles(ql) | low.bits(u8 * width)
            yield [s + 64 for s in starts], high_nibbles(ql) | high.bits(u8 * width)

    def scales(self, blocks: Blocks) -> Value:
        """One signed byte each."""
        return load(i8 * 16, blocks.address + 192).to(i16)
