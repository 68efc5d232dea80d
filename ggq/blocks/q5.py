"""Q5_0 and Q5_1: 32 five-bit codes with one scale, and one minimum in Q5_1."""

from __future__ import annotations

from ggq.blocks._base import BlockType, fields


class Q5_0(BlockType):
    """w = d * (q - 16)   (5.5 bits per weight)"""

    id = 6
    weights = 32
    layout = fields(("d", "<f2"), ("qh", "u1", (4,)), ("qs", "u1", (16,)))


class Q5_1(BlockType):
    """w = d * q + m   (6 bits per weight)"""

    id = 7
    weights = 32
    layout = fields(("d", "<f2"), ("m", "<f2"), ("qh", "u1", (4,)), ("qs", "u1", (16,)))
