"""IQ4_NL and IQ4_XS: four-bit indices into a table of 16 unevenly spaced values."""

from __future__ import annotations

from collections.abc import Iterator

from ggq.blocks._base import fields
from ggq.blocks._small import SmallBlock, high_nibbles, low_nibbles
from ggq.blocks._super import SuperBlock
from ggq.blocks._view import Blocks
from ggq.jit.isa import target
from ggq.jit.lang import Value, const, i16, load, splat, u16, u32

# Source: llama.cpp ggml-common.h kvalues_iq4nl.
VALUES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


class IQ4_NL(SmallBlock):
    """w = d * T[q]   (4.5 bits per weight)"""

    id = 20
    layout = fields(("d", "<f2"), ("qs", "u1", (16,)))
    signed = True

    def codes(self, blocks: Blocks) -> list[Value]:
        """Weights 0..15 in the low nibbles, 16..31 in the high ones."""
        qs = blocks.bytes("qs")
        return [target().lookup16(VALUES, q) for q in (low_nibbles(qs), high_nibbles(qs))]


class IQ4_XS(SuperBlock):
    """w = d * (sc - 32) * T[q]   (4.25 bits per weight)"""

    id = 23
    layout = fields(
        ("d", "<f2"), ("scales_h", "<u2"), ("scales_l", "u1", (4,)), ("qs", "u1", (128,))
    )
    group = 32
    signed = True

    def codes(self, blocks: Blocks, width: int) -> Iterator[tuple[list[int], Value]]:
        """16 bytes hold a sub-block: its first half in the low nibbles, its second in the high."""
        for at in range(0, 128, width):
            qs = blocks.bytes("qs", at, width)
            starts = [2 * c for c in range(at, at + width, 16)]
            yield starts, target().lookup16(VALUES, low_nibbles(qs))
            yield [s + 16 for s in starts], target().lookup16(VALUES, high_nibbles(qs))

    def scales(self, blocks: Blocks) -> Value:
        """Four bits each in scales_l, two more in scales_h."""
        low = splat(load(u32, blocks.address + 4), 8) >> const(u32 * 8, range(0, 32, 4))
        high = splat(load(u16, blocks.address + 2), 8) >> const(u16 * 8, range(0, 16, 2))
        return ((low.to(u16) & 15) | ((high & 3) << 4)).to(i16) - 32
