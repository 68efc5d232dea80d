"""IQ3_XXS and IQ3_S: 4-dimensional codebooks of 256 and 512 words with signs."""

from __future__ import annotations

from ggq.blocks._base import BlockType, fields


class IQ3_XXS(BlockType):
    """3.0625 bits per weight."""

    id = 18
    weights = 256
    layout = fields(("d", "<f2"), ("qs", "u1", (96,)))


class IQ3_S(BlockType):
    """3.4375 bits per weight."""

    id = 21
    weights = 256
    layout = fields(
        ("d", "<f2"),
        ("qs", "u1", (64,)),
        ("qh", "u1", (8,)),
        ("signs", "u1", (32,)),
        ("scales", "u1", (4,)),
    )
