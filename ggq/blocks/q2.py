"""Q2_0: two bits a weight, four levels."""

from __future__ import annotations

from ggq.blocks._base import BlockType, fields


class Q2_0(BlockType):
    """w = d * (q - 1)   (2.25 bits per weight)"""

    id = 42
    weights = 64
    layout = fields(("d", "<f2"), ("qs", "u1", (16,)))
