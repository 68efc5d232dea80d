"""IQ2_XXS, IQ2_XS, IQ2_S: 8-dimensional codebooks of 256, 512 and 1024 words with signs."""

from __future__ import annotations

from ggq.blocks._base import BlockType, fields


class IQ2_XXS(BlockType):
    """2.0625 bits per weight."""

    id = 16
    weights = 256
    layout = fields(("d", "<f2"), ("qs", "<u2", (32,)))


class IQ2_XS(BlockType):
    """2.3125 bits per weight."""

    id = 17
    weights = 256
    layout = fields(("d", "<f2"), ("qs", "<u2", (32,)), ("scales", "u1", (8,)))


class IQ2_S(BlockType):
    """2.5625 bits per weight."""

    id = 22
    weights = 256
    layout = fields(("d", "<f2"), ("qs", "u1", (64,)), ("qh", "u1", (8,)), ("scales", "u1", (8,)))
