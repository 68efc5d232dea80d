"""MXFP4 and NVFP4: four-bit floats (E2M1) with a shared power or byte float as scale."""

from __future__ import annotations

from ggq.blocks._base import BlockType, fields


class MXFP4(BlockType):
    """E2M1 codes with an E8M0 scale   (4.25 bits per weight)"""

    id = 39
    weights = 32
    layout = fields(("e", "u1"), ("qs", "u1", (16,)))


class NVFP4(BlockType):
    """E2M1 codes with a UE4M3 scale per 16   (4.5 bits per weight)"""

    id = 40
    weights = 64
    layout = fields(("d", "u1", (4,)), ("qs", "u1", (32,)))
