"""IQ3_XXS and IQ3_S: 4-dimensional codebooks of 256 and 512 words with signs."""

from __future__ import annotations

from collections.abc import Iterator

from ggq.blocks import _grids as grids
from ggq.blocks._base import BlockType, fields
from ggq.blocks._codebook import even_signs, with_signs, words
from ggq.blocks._view import Blocks
from ggq.jit.lang import Value, f32, i32, load, u8, u16, u32


class IQ3_XXS(BlockType):
    """w = +-d * (0.5 + sc) / 2 * word   (3.0625 bits per weight)

    64 bytes of words, then for every 32 weights four times seven signs and a 4-bit scale.
    """

    id = 18
    weights = 256
    layout = fields(("d", "<f2"), ("qs", "u1", (96,)))

    def singles(self, address: Value, step: int) -> Iterator[tuple[int, Value]]:
        """16 weights at a time, in the reference's own rounding."""
        d = Blocks(self, address).half("d")
        for group in range(16):
            indices = [load(u8, address + (2 + 4 * group + k)) for k in range(4)]
            info = load(u32, address + (66 + 4 * (group // 2)))
            scale = d * ((info >> 28).to(f32) + 0.5) * 0.5
            low, high = (even_signs(info >> (14 * (group % 2) + k)) for k in (0, 7))
            yield 16 * group, with_signs(words(grids.IQ3XXS, *indices).to(f32) * scale, low, high)


class IQ3_S(BlockType):
    """w = +-d * (1 + 2 sc) * word   (3.4375 bits per weight)

    Every 4 weights: a word of 8 bits in qs and one in qh; eight signs every 8, a scale every 32.
    """

    id = 21
    weights = 256
    layout = fields(
        ("d", "<f2"),
        ("qs", "u1", (64,)),
        ("qh", "u1", (8,)),
        ("signs", "u1", (32,)),
        ("scales", "u1", (4,)),
    )

    def singles(self, address: Value, step: int) -> Iterator[tuple[int, Value]]:
        """16 weights at a time, in the reference's own rounding."""
        d = Blocks(self, address).half("d")
        for group in range(16):
            top = load(u8, address + (66 + group // 2)).to(u16) >> 4 * (group % 2)
            indices = [
                load(u8, address + (2 + 4 * group + k)).to(u16) | ((top << (8 - k)) & 256)
                for k in range(4)
            ]
            scale = (load(u8, address + (106 + group // 4)) >> 4 * (group // 2 % 2)) & 15
            x = words(grids.IQ3S, *indices).to(f32) * (d * (scale.to(i32) * 2 + 1).to(f32))
            signs = address + (74 + 2 * group)
            yield 16 * group, with_signs(x, load(u8, signs), load(u8, signs + 1))
