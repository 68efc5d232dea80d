"""Q5_K: 8 sub-blocks of 32 five-bit codes, each with a 6-bit scale and minimum."""

from __future__ import annotations

from ggq.blocks._base import BlockType, fields


class Q5_K(BlockType):
    """w = d * sc * q - dmin * m   (5.5 bits per weight)"""

    id = 13
    weights = 256
    layout = fields(
        ("d", "<f2"),
        ("dmin", "<f2"),
        ("scales", "u1", (12,)),
        ("qh", "u1", (32,)),
        ("qs", "u1", (128,)),
    )
