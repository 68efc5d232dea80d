"""IQ3_XXS and IQ3_S: 4-dimensional codebooks of 256 and 512 words with signs."""

from __future__ import annotations

from collections.abc import Iterator

from ggq.blocks import _grids as grids
from ggq.blocks._base import fields
from ggq.blocks._codebook import OFFSET, nibbles, signed_codes, signs_of_info
from ggq.blocks._super import SuperBlock
from ggq.blocks._view import Blocks
from ggq.jit.isa import target
from ggq.jit.lang import Value, const, i16, load, select, u8, u16, u32


class IQ3_XXS(SuperBlock):
    """w = +-d / 4 * (1 + 2 sc) * word   (3.0625 bits per weight)

    64 bytes of words, then for every 32 weights four times seven signs and a 4-bit scale.
    """

    id = 18
    layout = fields(("d", "<f2"), ("qs", "u1", (96,)))
    group = 32
    offset = OFFSET
    narrow = False

    def codes(self, blocks: Blocks, width: int) -> Iterator[tuple[list[int], Value]]:
        """One byte names four weights."""
        words = blocks.bytes("qs", 0, 64).to(u16)
        return signed_codes(grids.IQ3XXS, words, signs_of_info(self._info(blocks)), width)

    def scales(self, blocks: Blocks) -> Value:
        """Above the signs."""
        return (self._info(blocks) >> 28).to(i16) * 2 + 1

    def scale(self, blocks: Blocks) -> Value:
        """d / 4."""
        return blocks.half("d") * 0.25

    def _info(self, blocks: Blocks) -> Value:
        return load(u32 * 8, blocks.address + 66)


class IQ3_S(SuperBlock):
    """w = +-d * (1 + 2 sc) * word   (3.4375 bits per weight)

    Every 4 weights: a word of 8 bits in qs and one in qh; eight signs every 8, a scale every 32.
    """

    id = 21
    layout = fields(
        ("d", "<f2"),
        ("qs", "u1", (64,)),
        ("qh", "u1", (8,)),
        ("signs", "u1", (32,)),
        ("scales", "u1", (4,)),
    )
    group = 32
    offset = OFFSET
    narrow = False

    def codes(self, blocks: Blocks, width: int) -> Iterator[tuple[list[int], Value]]:
        """Nine bits name four weights."""
        high = select(target().set_bits(blocks.bytes("qh")), const(u8 * 64, 1), 0).to(u16) << 8
        words = blocks.bytes("qs").to(u16) | high
        return signed_codes(grids.IQ3S, words, blocks.bytes("signs"), width)

    def scales(self, blocks: Blocks) -> Value:
        """Two to a byte."""
        return nibbles(blocks.bytes("scales")).to(i16) * 2 + 1
