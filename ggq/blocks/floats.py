"""F64, F32, F16, BF16: plain floating point, one weight a block."""

from __future__ import annotations

from ggq.blocks._base import BlockType, fields


class F32(BlockType):
    """IEEE single precision."""

    id = 0
    weights = 1
    layout = fields(("x", "<f4"))


class F16(BlockType):
    """IEEE half precision."""

    id = 1
    weights = 1
    layout = fields(("x", "<f2"))


class F64(BlockType):
    """IEEE double precision."""

    id = 28
    weights = 1
    layout = fields(("x", "<f8"))


class BF16(BlockType):
    """The upper half of a single: 8 exponent bits, 7 mantissa bits."""

    id = 30
    weights = 1
    layout = fields(("x", "<u2"))
