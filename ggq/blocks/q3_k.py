"""Q3_K: 16 sub-blocks of 16 three-bit codes, each with a 6-bit signed scale."""

from __future__ import annotations

from ggq.blocks._base import BlockType, fields


class Q3_K(BlockType):
    """w = d * sc * (q - 4)   (3.4375 bits per weight)"""

    id = 11
    weights = 256
    layout = fields(
        ("hmask", "u1", (32,)), ("qs", "u1", (64,)), ("scales", "u1", (12,)), ("d", "<f2")
    )
