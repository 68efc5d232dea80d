"""IQ2_XXS, IQ2_XS, IQ2_S: 8-dimensional codebooks of 256, 512 and 1024 words with signs."""

from __future__ import annotations

from collections.abc import Iterator

from ggq.blocks import _grids as grids
from ggq.blocks._base import U8, fields
from ggq.blocks._codebook import (
    OFFSET,
    CodebookBlock,
    even_signs,
    nibbles,
    signed_codes,
    signs_of_info,
)
from ggq.blocks._codebook_search import (
    Recipe,
    offset_square_weights,
    put_scale,
    put_scale_nibbles,
    search_words,
    square_weights,
)
from ggq.blocks._lanes import Lanes, Tile, lanes
from ggq.blocks._neighbours import Lattice
from ggq.blocks._view import Blocks
from ggq.jit.lang import Value, const, i16, i32, load, loop, select, shuffle, u8, u16, u32, zeros

_XXS = Recipe(
    Lattice(grids.IQ2XXS, 2), 32, 6, 0.1, 1e-15, 1.0, even_signs=True, fitted=True, again="all"
)
_XS = Recipe(Lattice(grids.IQ2XS, 2), 16, 9, 0.1, 1e-15, 1.0, even_signs=True)
_S = Recipe(Lattice(grids.IQ2S, 1), 16, 9, 0.1, 1e-8, 2.0)


class _IQ2(CodebookBlock):
    """w = +-d / 8 * (1 + 2 sc) * word"""

    offset = OFFSET
    narrow = False

    def signs(self, blocks: Blocks) -> Value:
        """u8[32]: eight for every word."""
        raise NotImplementedError

    def codes(self, blocks: Blocks, width: int) -> Iterator[tuple[list[int], Value]]:
        """Words with their signs."""
        words, signs = self.words(blocks), self.signs(blocks)
        return signed_codes(self.grid, words, signs, width, blocks.found)

    def scale(self, blocks: Blocks) -> Value:
        """d / 8."""
        return blocks.half("d") * 0.125


class IQ2_XXS(_IQ2):
    """w = +-d / 8 * (1 + 2 sc) * word   (2.0625 bits per weight)

    Every 32 weights: four one-byte words, then four times seven signs and a 4-bit scale.
    """

    id = 16
    grid = grids.IQ2XXS
    layout = fields(("d", "<f2"), ("qs", "<u2", (32,)))
    group = 32
    uses_importance = True
    needs_importance = True

    def words(self, blocks: Blocks) -> Value:
        """Four bytes before the signs."""
        qs = load(u32 * 16, blocks.address + 2)
        return shuffle(qs, range(0, 16, 2)).bits(u8 * 32).to(u16)

    def signs(self, blocks: Blocks) -> Value:
        """Seven bits each."""
        return signs_of_info(_info(load(u32 * 16, blocks.address + 2)))

    def scales(self, blocks: Blocks) -> Value:
        """Above the signs."""
        info = _info(load(u32 * 16, blocks.address + 2))
        return _odd(info >> 28)

    def quantize_tables(self) -> U8:
        """The codebook and its neighbours."""
        return _XXS.lattice.table()

    def quantize_lanes(self, b: Lanes) -> None:
        """Source: llama.cpp ggml-quants.c, quantize_row_iq2_xxs_impl."""
        found = search_words(b, _XXS, square_weights)
        some, scales = put_scale(b, found.scales, 1.0)
        stored = Tile(16, i32)
        for part, scale in enumerate(scales):
            numbers, info = zeros(lanes(i32)), scale << 28
            for k in range(4):
                numbers = numbers | found.words[4 * part + k] << 8 * k
                info = info | found.signs[4 * part + k] << 7 * k
            stored[2 * part] = select(some, numbers, 0)
            stored[2 * part + 1] = select(some, info, 0)
        for block in b.each():
            for j in loop(16):
                block.put("qs", stored.lane(block.lane, j), j)


class IQ2_XS(_IQ2):
    """w = +-d / 8 * (1 + 2 sc) * word   (2.3125 bits per weight)

    Every 8 weights: a 9-bit word and seven signs; every 16 a 4-bit scale.
    """

    id = 17
    grid = grids.IQ2XS
    layout = fields(("d", "<f2"), ("qs", "<u2", (32,)), ("scales", "u1", (8,)))
    group = 16
    uses_importance = True
    needs_importance = True

    def words(self, blocks: Blocks) -> Value:
        """Below the signs."""
        return load(u16 * 32, blocks.address + 2) & 511

    def signs(self, blocks: Blocks) -> Value:
        """Seven bits each."""
        return even_signs((load(u16 * 32, blocks.address + 2) >> 9).to(u8))

    def scales(self, blocks: Blocks) -> Value:
        """Two to a byte."""
        return _odd(nibbles(blocks.bytes("scales")))

    def quantize_tables(self) -> U8:
        """The codebook and its neighbours."""
        return _XS.lattice.table()

    def quantize_lanes(self, b: Lanes) -> None:
        """Source: llama.cpp ggml-quants.c, quantize_row_iq2_xs_impl."""
        found = search_words(b, _XS, square_weights)
        some, scales = put_scale(b, found.scales, 1.0)
        stored = Tile(32, u16)
        for n in loop(32):
            stored[n] = select(some, found.words[n] | found.signs[n] << 9, 0).to(u16)
        b.put("qs", stored, 32)
        put_scale_nibbles(b, scales)


class IQ2_S(_IQ2):
    """w = +-d / 8 * (1 + 2 sc) * word   (2.5625 bits per weight)

    Every 8 weights: a word of 8 bits in qs and 2 in qh, and eight signs; every 16 a 4-bit scale.
    """

    id = 22
    grid = grids.IQ2S
    layout = fields(("d", "<f2"), ("qs", "u1", (64,)), ("qh", "u1", (8,)), ("scales", "u1", (8,)))
    group = 16
    uses_importance = True

    def words(self, blocks: Blocks) -> Value:
        """Eight bits in the first half of qs, two in qh."""
        high = shuffle(blocks.bytes("qh").to(u16), [i // 4 for i in range(32)])
        high = (high << const(u16 * 32, [8, 6, 4, 2] * 8)) & 0x300
        return blocks.bytes("qs", 0, 32).to(u16) | high

    def signs(self, blocks: Blocks) -> Value:
        """The second half of qs."""
        return blocks.bytes("qs", 32, 32)

    def scales(self, blocks: Blocks) -> Value:
        """Two to a byte."""
        return _odd(nibbles(blocks.bytes("scales")))

    def quantize_tables(self) -> U8:
        """The codebook and its neighbours."""
        return _S.lattice.table()

    def quantize_lanes(self, b: Lanes) -> None:
        """Source: llama.cpp ggml-quants.c, quantize_row_iq2_s_impl."""
        found = search_words(b, _S, offset_square_weights)
        _, scales = put_scale(b, found.scales, 0.9875)
        stored, tops = Tile(64, u8), Tile(8, u8)
        for n in loop(8):
            top = zeros(lanes(i32))
            for k in range(4):
                number, signs = found.words[4 * n + k], found.signs[4 * n + k]
                stored[4 * n + k], stored[32 + 4 * n + k] = number.to(u8), signs.to(u8)
                top = top | number >> 8 << 2 * k
            tops[n] = top.to(u8)
        b.put("qs", stored, 64)
        b.put("qh", tops, 8)
        put_scale_nibbles(b, scales)


def _info(qs: Value) -> Value:
    """u32[8]: signs and scales."""
    return shuffle(qs, range(1, 16, 2))


def _odd(scales: Value) -> Value:
    """i16: twice a scale, plus 1."""
    return scales.to(i16) * 2 + 1
