"""I8, I16, I32, I64: plain integers, stored only."""

from __future__ import annotations

from ggq.blocks._base import BlockType, fields


class I8(BlockType):
    """Signed byte."""

    id = 24
    weights = 1
    layout = fields(("x", "i1"))


class I16(BlockType):
    """Signed 16-bit integer."""

    id = 25
    weights = 1
    layout = fields(("x", "<i2"))


class I32(BlockType):
    """Signed 32-bit integer."""

    id = 26
    weights = 1
    layout = fields(("x", "<i4"))


class I64(BlockType):
    """Signed 64-bit integer."""

    id = 27
    weights = 1
    layout = fields(("x", "<i8"))
