"""Q8_0 and the activation forms Q8_1 and Q8_K: eight-bit codes."""

from __future__ import annotations

from ggq.blocks._base import BlockType, fields


class Q8_0(BlockType):
    """w = d * q   (8.5 bits per weight)"""

    id = 8
    weights = 32
    layout = fields(("d", "<f2"), ("qs", "i1", (32,)))


class Q8_1(BlockType):
    """w = d * q, with s = d * sum(q); activations only."""

    id = 9
    weights = 32
    layout = fields(("d", "<f2"), ("s", "<f2"), ("qs", "i1", (32,)))


class Q8_K(BlockType):
    """w = d * q, with the sums of 16 codes; activations only."""

    id = 15
    weights = 256
    layout = fields(("d", "<f4"), ("qs", "i1", (256,)), ("bsums", "<i2", (16,)))
