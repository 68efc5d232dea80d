"""Q2_K: 16 sub-blocks of 16 two-bit codes, each with a 4-bit scale and minimum."""

from __future__ import annotations

from collections.abc import Iterator

from ggq.blocks._base import fields
from ggq.blocks._super import SuperBlock
from ggq.blocks._view import Blocks
from ggq.jit.lang import Value, i16, u8, u16


class Q2_K(SuperBlock):
    """w = d * sc * q - dmin * m   (2.625 bits per weight)"""

    id = 10
    layout = fields(("scales", "u1", (16,)), ("qs", "u1", (64,)), ("d", "<f2"), ("dmin", "<f2"))
    group = 16
    has_minimum = True

    def codes(self, blocks: Blocks, width: int) -> Iterator[tuple[list[int], Value]]:
        """Each half: 32 bytes, two bits of every byte for each of four runs of 32 weights."""
        for at in range(0, 64, width):
            qs = blocks.bytes("qs", at, width)
            for run, codes in enumerate(two_bit_runs(qs)):
                yield (
                    [128 * (c // 32) + 32 * run + c % 32 for c in range(at, at + width, 16)],
                    codes,
                )

    def scales(self, blocks: Blocks) -> Value:
        """The low nibbles."""
        return (blocks.bytes("scales") & 15).to(i16)

    def minima(self, blocks: Blocks) -> Value:
        """The high nibbles."""
        return (blocks.bytes("scales") >> 4).to(i16)


def two_bit_runs(qs: Value) -> list[Value]:
    """u8[n] -> four u8[n]: bits 0..1, 2..3, 4..5, 6..7 of every byte."""
    n = qs.type.lanes
    pairs = qs.bits(u16 * (n // 2))
    return [(pairs >> shift).bits(u8 * n) & 3 for shift in (0, 2, 4, 6)]
