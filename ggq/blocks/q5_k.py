"""Q5_K: 8 sub-blocks of 32 five-bit codes, each with a 6-bit scale and minimum."""

from __future__ import annotations

from collections.abc import Iterator

from ggq.blocks._base import fields
from ggq.blocks._six_bit import six_bit_minima, six_bit_scales
from ggq.blocks._small import high_nibbles, low_nibbles
from ggq.blocks._super import SuperBlock
from ggq.blocks._view import Blocks
from ggq.jit.lang import Value, concat, const, select, u8


class Q5_K(SuperBlock):
    """w = d * sc * q - dmin * m   (5.5 bits per weight)"""

    id = 13
    layout = fields(
        ("d", "<f2"),
        ("dmin", "<f2"),
        ("scales", "u1", (12,)),
        ("qh", "u1", (32,)),
        ("qs", "u1", (128,)),
    )
    group = 32
    has_minimum = True

    def codes(self, blocks: Blocks, width: int) -> Iterator[tuple[list[int], Value]]:
        """Nibbles as in Q4_K; bit j of qh[i] tops weight i of sub-block j."""
        for at in range(0, 128, width):
            qs = blocks.bytes("qs", at, width)
            qh = blocks.bytes("qh", at % 32, min(width, 32))
            qh = concat(qh, qh) if width == 64 else qh
            pair = [2 * ((at + c) // 32) for c in range(width)]
            starts = [32 * p + (at + c) % 32 for c, p in enumerate(pair) if c % 16 == 0]
            low, high = (
                (qh & const(u8 * width, [1 << (p + odd) for p in pair])).ne(0) for odd in (0, 1)
            )
            yield starts, select(low, low_nibbles(qs) | 16, low_nibbles(qs))
            yield [s + 32 for s in starts], select(high, high_nibbles(qs) | 16, high_nibbles(qs))

    def scales(self, blocks: Blocks) -> Value:
        """Six bits each."""
        return six_bit_scales(blocks)

    def minima(self, blocks: Blocks) -> Value:
        """Six bits each."""
        return six_bit_minima(blocks)
