"""Q1_0: one bit a weight, its sign."""

from __future__ import annotations

from ggq.blocks._base import BlockType, fields


class Q1_0(BlockType):
    """w = +-d   (1.125 bits per weight)"""

    id = 41
    weights = 128
    layout = fields(("d", "<f2"), ("qs", "u1", (16,)))
