"""IQ4_NL and IQ4_XS: four-bit indices into a table of 16 unevenly spaced values."""

from __future__ import annotations

from ggq.blocks._base import BlockType, fields


class IQ4_NL(BlockType):
    """w = d * T[q]   (4.5 bits per weight)"""

    id = 20
    weights = 32
    layout = fields(("d", "<f2"), ("qs", "u1", (16,)))


class IQ4_XS(BlockType):
    """w = d * (sc - 32) * T[q]   (4.25 bits per weight)"""

    id = 23
    weights = 256
    layout = fields(
        ("d", "<f2"), ("scales_h", "<u2"), ("scales_l", "u1", (4,)), ("qs", "u1", (128,))
    )
