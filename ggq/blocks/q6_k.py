"""Q6_K: 16 sub-blocks of 16 six-bit codes, each with an 8-bit signed scale."""

from __future__ import annotations

from ggq.blocks._base import BlockType, fields


class Q6_K(BlockType):
    """w = d * sc * (q - 32)   (6.5625 bits per weight)"""

    id = 14
    weights = 256
    layout = fields(
        ("ql", "u1", (128,)), ("qh", "u1", (64,)), ("scales", "i1", (16,)), ("d", "<f2")
    )
