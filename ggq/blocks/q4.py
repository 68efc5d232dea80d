"""Q4_0 and Q4_1: 32 four-bit codes with one scale, and one minimum in Q4_1."""

from __future__ import annotations

from ggq.blocks._base import BlockType, fields


class Q4_0(BlockType):
    """w = d * (q - 8)   (4.5 bits per weight)"""

    id = 2
    weights = 32
    layout = fields(("d", "<f2"), ("qs", "u1", (16,)))


class Q4_1(BlockType):
    """w = d * q + m   (5 bits per weight)"""

    id = 3
    weights = 32
    layout = fields(("d", "<f2"), ("m", "<f2"), ("qs", "u1", (16,)))
