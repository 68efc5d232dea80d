"""TQ1_0 and TQ2_0: three values per weight, for models trained that way."""

from __future__ import annotations

from ggq.blocks._base import BlockType, fields


class TQ1_0(BlockType):
    """w = d * (q - 1), five trits a byte   (1.6875 bits per weight)"""

    id = 34
    weights = 256
    layout = fields(("qs", "u1", (48,)), ("qh", "u1", (4,)), ("d", "<f2"))


class TQ2_0(BlockType):
    """w = d * (q - 1), two bits a weight   (2.0625 bits per weight)"""

    id = 35
    weights = 256
    layout = fields(("qs", "u1", (64,)), ("d", "<f2"))
