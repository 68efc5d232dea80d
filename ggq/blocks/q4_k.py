"""Q4_K: 8 sub-blocks of 32 four-bit codes, each with a 6-bit scale and minimum."""

from __future__ import annotations

from ggq.blocks._base import BlockType, fields


class Q4_K(BlockType):
    """w = d * sc * q - dmin * m   (4.5 bits per weight)"""

    id = 12
    weights = 256
    layout = fields(("d", "<f2"), ("dmin", "<f2"), ("scales", "u1", (12,)), ("qs", "u1", (128,)))
