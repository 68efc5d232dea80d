"""Q8_0 and the activation forms Q8_1 and Q8_K: eight-bit codes."""

from __future__ import annotations

from ggq.blocks._base import BlockType, fields
from ggq.blocks._small import SmallBlock
from ggq.blocks._view import Blocks
from ggq.jit.lang import Value, i8


class Q8_0(SmallBlock):
    """w = d * q   (8.5 bits per weight)"""

    id = 8
    layout = fields(("d", "<f2"), ("qs", "i1", (32,)))
    signed = True

    def codes(self, blocks: Blocks) -> list[Value]:
        """One signed byte per weight."""
        qs = blocks.bytes("qs")
        return [qs.bits(i8 * qs.type.lanes)]


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
