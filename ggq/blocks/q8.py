"""Q8_0 and the activation forms Q8_1 and Q8_K: eight-bit codes."""

from __future__ import annotations

from collections.abc import Iterator

from ggq.blocks._base import BlockType, fields
from ggq.blocks._small import SmallBlock
from ggq.blocks._view import Blocks
from ggq.jit.lang import Value, f32, i8, load


class _SignedBytes(SmallBlock):
    signed = True

    def codes(self, blocks: Blocks) -> list[Value]:
        """One signed byte per weight."""
        qs = blocks.bytes("qs")
        return [qs.bits(i8 * qs.type.lanes)]


class Q8_0(_SignedBytes):
    """w = d * q   (8.5 bits per weight)"""

    id = 8
    layout = fields(("d", "<f2"), ("qs", "i1", (32,)))


class Q8_1(_SignedBytes):
    """w = d * q, with s = d * sum(q); activations only."""

    id = 9
    layout = fields(("d", "<f2"), ("s", "<f2"), ("qs", "i1", (32,)))


class Q8_K(BlockType):
    """w = d * q, with the sums of 16 codes; activations only."""

    id = 15
    weights = 256
    layout = fields(("d", "<f4"), ("qs", "i1", (256,)), ("bsums", "<i2", (16,)))

    def singles(self, address: Value, step: int) -> Iterator[tuple[int, Value]]:
        """One signed byte per weight; the sums are for dot products."""
        d = load(f32, address)
        for first in range(0, 256, 16):
            yield first, load(i8 * 16, address + (4 + first)).to(f32) * d
