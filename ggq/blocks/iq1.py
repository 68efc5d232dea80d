"""IQ1_S and IQ1_M: 8-dimensional ternary codebook of 2048 words plus a shift."""

from __future__ import annotations

from ggq.blocks._base import BlockType, fields


class IQ1_S(BlockType):
    """1.5625 bits per weight."""

    id = 19
    weights = 256
    layout = fields(("d", "<f2"), ("qs", "u1", (32,)), ("qh", "<u2", (8,)))


class IQ1_M(BlockType):
    """1.75 bits per weight; the scale is spread over four scale words."""

    id = 29
    weights = 256
    layout = fields(("qs", "u1", (32,)), ("qh", "u1", (16,)), ("scales", "u1", (8,)))
