"""IQ2_XXS, IQ2_XS, IQ2_S: 8-dimensional codebooks of 256, 512 and 1024 words with signs."""

from __future__ import annotations

from collections.abc import Iterator

from ggq.blocks import _grids as grids
from ggq.blocks._base import fields
from ggq.blocks._codebook import OFFSET, even_signs, nibbles, signed_codes, signs_of_info
from ggq.blocks._super import SuperBlock
from ggq.blocks._view import Blocks
from ggq.jit.lang import Value, const, i16, load, shuffle, u8, u16, u32


class _IQ2(SuperBlock):
    """w = +-d / 8 * (1 + 2 sc) * word"""

    offset = OFFSET
    narrow = False

    def scale(self, blocks: Blocks) -> Value:
        """d / 8."""
        return blocks.half("d") * 0.125


class IQ2_XXS(_IQ2):
    """w = +-d / 8 * (1 + 2 sc) * word   (2.0625 bits per weight)

    Every 32 weights: four one-byte words, then four times seven signs and a 4-bit scale.
    """

    id = 16
    layout = fields(("d", "<f2"), ("qs", "<u2", (32,)))
    group = 32

    def codes(self, blocks: Blocks, width: int) -> Iterator[tuple[list[int], Value]]:
        """Words and signs in turns."""
        qs = load(u32 * 16, blocks.address + 2)
        words = shuffle(qs, range(0, 16, 2)).bits(u8 * 32).to(u16)
        return signed_codes(grids.IQ2XXS, words, signs_of_info(_info(qs)), width)

    def scales(self, blocks: Blocks) -> Value:
        """Above the signs."""
        info = _info(load(u32 * 16, blocks.address + 2))
        return _odd(info >> 28)


class IQ2_XS(_IQ2):
    """w = +-d / 8 * (1 + 2 sc) * word   (2.3125 bits per weight)

    Every 8 weights: a 9-bit word and seven signs; every 16 a 4-bit scale.
    """

    id = 17
    layout = fields(("d", "<f2"), ("qs", "<u2", (32,)), ("scales", "u1", (8,)))
    group = 16

    def codes(self, blocks: Blocks, width: int) -> Iterator[tuple[list[int], Value]]:
        """Signs above the words."""
        qs = load(u16 * 32, blocks.address + 2)
        return signed_codes(grids.IQ2XS, qs & 511, even_signs((qs >> 9).to(u8)), width)

    def scales(self, blocks: Blocks) -> Value:
        """Two to a byte."""
        return _odd(nibbles(blocks.bytes("scales")))


class IQ2_S(_IQ2):
    """w = +-d / 8 * (1 + 2 sc) * word   (2.5625 bits per weight)

    Every 8 weights: a word of 8 bits in qs and 2 in qh, and eight signs; every 16 a 4-bit scale.
    """

    id = 22
    layout = fields(("d", "<f2"), ("qs", "u1", (64,)), ("qh", "u1", (8,)), ("scales", "u1", (8,)))
    group = 16

    def codes(self, blocks: Blocks, width: int) -> Iterator[tuple[list[int], Value]]:
        """The first half of qs are words, the second one is signs."""
        high = shuffle(blocks.bytes("qh").to(u16), [i // 4 for i in range(32)])
        high = (high << const(u16 * 32, [8, 6, 4, 2] * 8)) & 0x300
        words = blocks.bytes("qs", 0, 32).to(u16) | high
        return signed_codes(grids.IQ2S, words, blocks.bytes("qs", 32, 32), width)

    def scales(self, blocks: Blocks) -> Value:
        """Two to a byte."""
        return _odd(nibbles(blocks.bytes("scales")))


def _info(qs: Value) -> Value:
    """u32[8]: signs and scales."""
    return shuffle(qs, range(1, 16, 2))


def _odd(scales: Value) -> Value:
    """i16: twice a scale, plus 1."""
    return scales.to(i16) * 2 + 1
