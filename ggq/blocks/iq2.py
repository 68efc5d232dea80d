"""IQ2_XXS, IQ2_XS, IQ2_S: 8-dimensional codebooks of 256, 512 and 1024 words with signs."""

from __future__ import annotations

from collections.abc import Iterator

from ggq.blocks import _grids as grids
from ggq.blocks._base import BlockType, fields
from ggq.blocks._codebook import even_signs, with_signs, words
from ggq.blocks._view import Blocks
from ggq.jit.lang import Value, f32, load, u8, u16, u32


class IQ2_XXS(BlockType):
    """w = +-d * (0.5 + sc) / 4 * word   (2.0625 bits per weight)

    Every 32 weights: four one-byte words, then four times seven signs and a 4-bit scale.
    """

    id = 16
    weights = 256
    layout = fields(("d", "<f2"), ("qs", "<u2", (32,)))

    def singles(self, address: Value, step: int) -> Iterator[tuple[int, Value]]:
        """16 weights at a time, in the reference's own rounding."""
        d = Blocks(self, address).half("d")
        for group in range(8):
            qs = address + (2 + 8 * group)
            info = load(u32, qs + 4)
            scale = _quarter(d, info >> 28)
            for k in (0, 2):
                x = words(grids.IQ2XXS, load(u8, qs + k), load(u8, qs + (k + 1))).to(f32) * scale
                low, high = (even_signs(info >> 7 * n) for n in (k, k + 1))
                yield 32 * group + 8 * k, with_signs(x, low, high)


class IQ2_XS(BlockType):
    """w = +-d * (0.5 + sc) / 4 * word   (2.3125 bits per weight)

    Every 8 weights: a 9-bit word and seven signs; every 16 a 4-bit scale.
    """

    id = 17
    weights = 256
    layout = fields(("d", "<f2"), ("qs", "<u2", (32,)), ("scales", "u1", (8,)))

    def singles(self, address: Value, step: int) -> Iterator[tuple[int, Value]]:
        """16 weights at a time, in the reference's own rounding."""
        d = Blocks(self, address).half("d")
        for group in range(16):
            first, second = (load(u16, address + (2 + 4 * group + k)) for k in (0, 2))
            x = words(grids.IQ2XS, first & 511, second & 511).to(f32)
            x = x * _quarter(d, _nibble(address + 66, group))
            yield 16 * group, with_signs(x, even_signs(first >> 9), even_signs(second >> 9))


class IQ2_S(BlockType):
    """w = +-d * (0.5 + sc) / 4 * word   (2.5625 bits per weight)

    Every 8 weights: a word of 8 bits in qs and 2 in qh, and eight signs; every 16 a 4-bit scale.
    """

    id = 22
    weights = 256
    layout = fields(("d", "<f2"), ("qs", "u1", (64,)), ("qh", "u1", (8,)), ("scales", "u1", (8,)))

    def singles(self, address: Value, step: int) -> Iterator[tuple[int, Value]]:
        """16 weights at a time, in the reference's own rounding."""
        d = Blocks(self, address).half("d")
        for group in range(16):
            qs, signs = address + (2 + 2 * group), address + (34 + 2 * group)
            top = load(u8, address + (66 + group // 2)).to(u16) >> 4 * (group % 2)
            first = load(u8, qs).to(u16) | ((top & 3) << 8)
            second = load(u8, qs + 1).to(u16) | ((top & 12) << 6)
            x = words(grids.IQ2S, first, second).to(f32)
            x = x * _quarter(d, _nibble(address + 74, group))
            yield 16 * group, with_signs(x, load(u8, signs), load(u8, signs + 1))


def _nibble(scales: Value, group: int) -> Value:
    """u8: the 4-bit scale of a group, two to a byte."""
    return (load(u8, scales + group // 2) >> 4 * (group % 2)) & 15


def _quarter(d: Value, scale: Value) -> Value:
    return d * (scale.to(f32) + 0.5) * 0.25
