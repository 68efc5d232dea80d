"""IQ3_XXS and IQ3_S: 4-dimensional codebooks of 256 and 512 words with signs."""

from __future__ import annotations

from collections.abc import Iterator

from ggq.blocks import _grids as grids
from ggq.blocks._base import U8, fields
from ggq.blocks._codebook import OFFSET, nibbles, signed_codes, signs_of_info
from ggq.blocks._codebook_search import (
    Found,
    Recipe,
    put_scale,
    put_scale_nibbles,
    search_words,
    square_weights,
)
from ggq.blocks._lanes import Block, Lanes, Tile, lanes
from ggq.blocks._neighbours import Lattice
from ggq.blocks._super import SuperBlock
from ggq.blocks._view import Blocks
from ggq.jit.isa import target
from ggq.jit.lang import (
    Value,
    const,
    i16,
    i32,
    i64,
    load,
    loop,
    select,
    u8,
    u16,
    u32,
    var,
    when,
    zeros,
)

_XXS = Recipe(Lattice(grids.IQ3XXS, 2), 32, 15, 0.2, 1e-8, 2.0, even_signs=True)
_S = Recipe(Lattice(grids.IQ3S, 3), 32, 9, 0.2, 0.0, 2.0, again="all if some are off")


class IQ3_XXS(SuperBlock):
    """w = +-d / 4 * (1 + 2 sc) * word   (3.0625 bits per weight)

    64 bytes of words, then for every 32 weights four times seven signs and a 4-bit scale.
    """

    id = 18
    layout = fields(("d", "<f2"), ("qs", "u1", (96,)))
    group = 32
    uses_importance = True
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

    def quantize_tables(self) -> U8:
        """The codebook and its neighbours."""
        return _XXS.lattice.table()

    def quantize_lanes(self, b: Lanes) -> None:
        """Source: llama.cpp ggml-quants.c, quantize_row_iq3_xxs_impl."""
        found = search_words(b, _XXS, square_weights)
        some, scales = put_scale(b, found.scales, 1.0125)
        numbers, infos = Tile(64, u8), Tile(8, i32)
        for n in loop(64):
            numbers[n] = select(some, found.words[n], 0).to(u8)
        for part, scale in enumerate(scales):
            info = scale << 28
            for k in range(4):
                info = info | found.signs[4 * part + k] << 7 * k
            infos[part] = select(some, info, 0)
        b.put("qs", numbers, 64)
        for block in b.each():
            for j in loop(8):
                block.put("qs", infos.lane(block.lane, j), j + 16)


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
    uses_importance = True
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

    def quantize_tables(self) -> U8:
        """The codebook and its neighbours."""
        return _S.lattice.table()

    def quantize_lanes(self, b: Lanes) -> None:
        """Source: llama.cpp ggml-quants.c, quantize_row_iq3_s_impl."""
        found = search_words(b, _S, square_weights)
        _, scales = put_scale(b, found.scales, 1.033)
        tops = Tile(8, u8)
        for n in loop(8):
            top = zeros(lanes(i32))
            for k in range(8):
                top = top | found.words[8 * n + k] >> 8 << k
            tops[n] = top.to(u8)
        b.put("qh", tops, 8)
        put_scale_nibbles(b, scales)
        for block in b.each():
            _put_words(block, found)


def _put_words(block: Block, found: Found) -> None:
    """Write qs and signs; as in the C code what follows a sub-block of zeros moves up."""
    block.put("qs", zeros(u8 * 64))
    block.put("signs", zeros(u8 * 32))
    at = var(const(i64, 0))
    for j in loop(8):
        with when(found.some.lane(block.lane, j).ne(0)):
            for k in loop(8):
                block.put("qs", found.words.lane(block.lane, 8 * j + k).to(u8), at * 8 + k)
            for k in loop(4):
                block.put("signs", found.signs.lane(block.lane, 4 * j + k).to(u8), at * 4 + k)
            at += 1
