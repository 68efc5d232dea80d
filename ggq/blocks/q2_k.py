"""Q2_K: 16 sub-blocks of 16 two-bit codes, each with a 4-bit scale and minimum."""

from __future__ import annotations

from ggq.blocks._base import BlockType, fields


class Q2_K(BlockType):
    """w = d * sc * q - dmin * m   (2.625 bits per weight)"""

    id = 10
    weights = 256
    layout = fields(("scales", "u1", (16,)), ("qs", "u1", (64,)), ("d", "<f2"), ("dmin", "<f2"))
