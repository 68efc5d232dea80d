"""What IQ1, IQ2 and IQ3 share: weights come as words of a codebook, 4 or 8 at a time.

A super-block names its words by `indices`, u16, in the order of the weights. Where the target looks
words up in registers, a codebook is kept as words of 16 bits, which hold the numbers of the levels;
elsewhere as whole levels in memory, loaded word by word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import ClassVar

from ggq.blocks._grids import Grid
from ggq.blocks._super import BLOCK, CHUNK, SuperBlock
from ggq.blocks._view import Blocks
from ggq.jit.isa import target
from ggq.jit.lang import (
    Type,
    Value,
    call,
    concat,
    const,
    i64,
    load,
    scratch,
    select,
    shuffle,
    split,
    store,
    table,
    u8,
    u16,
    u32,
    u64,
    undefined,
)  # fmt: skip

OFFSET = 64  # of signed levels: with it no code is negative, nor too large for any dot product
MOST_LOOKED_UP = 1024  # words of a codebook that are looked up in registers
FOUND_TOGETHER = 1024  # words of a codebook from which on those of two blocks are
_BITS = [1 << i for i in range(8)]

Part = tuple[list[int], Value]  # (where each chunk starts, codes)


class CodebookBlock(SuperBlock):
    """A family gives its `grid` and `words`, and makes `codes` of what `found` says of them."""

    grid: ClassVar[Grid]

    def words(self, blocks: Blocks) -> Value:
        """u16 indices of the words."""
        raise NotImplementedError

    @property
    def blocks_at_once(self) -> int:
        """Two where their 32 words each are found sooner together."""
        large = BLOCK // self.grid.dims == 32 and len(_packed(self.grid)) >= FOUND_TOGETHER
        return 2 if large and target().looks_up_many else 1

    def look_ahead(self, several: Sequence[Blocks]) -> None:
        """Find the words of all."""
        words = _words(self.grid, concat(*(self.words(blocks) for blocks in several)))
        for blocks, found in zip(several, words, strict=True):
            blocks.found = [found]


def signed_codes(
    grid: Grid, indices: Value, signs: Value, width: int, found: list[Value] | None = None
) -> Iterator[Part]:
    """u8[width]: OFFSET + level, or - where a bit of signs u8[32], lowest first, is set.

    `found` are the words, if they are known already.
    """
    if _in_registers(width):
        numbered = [*grid.levels, *[0] * ((1 << _level_bits(grid)) - len(grid.levels))]
        entries = [OFFSET + level for level in numbered], [OFFSET - level for level in numbered]
        unpacked = _signed_pairs if grid.dims == 8 else _signed_nibbles
        yield from unpacked(found or _words(grid, indices), signs, *entries)
        return
    start = _words_in_memory(grid, lambda level: level)
    for starts in _order(width):
        levels = _loaded(start, grid.dims, indices, starts)
        chosen = [start // 8 + i // 8 for start in starts for i in range(CHUNK)]
        minus = (shuffle(signs, chosen) & const(u8 * width, _BITS * (width // 8))).ne(0)
        # Minus x is ~x + 1.
        turned = levels ^ select(minus, const(u8 * width, 255), 0)
        yield starts, turned + select(minus, const(u8 * width, OFFSET + 1), OFFSET)


def shifted_codes(
    grid: Grid, code: Callable[[int], int], indices: Value, down: Value, width: int,
    found: list[Value] | None = None,
) -> Iterator[Part]:  # fmt: skip
    """u8[width]: `code` of a level of eight in a word; 2 less where down u16[32] is not 0.

    `found` are the words, if they are known already.
    """
    if _in_registers(width):
        entries = [code(level) for level in (*grid.levels, 0)]
        choice = select(down.ne(0), const(u16 * 32, 0x0808), 0)
        (words,) = found or _words(grid, indices)
        for k in range(4):
            named = ((words >> 2 * k) & 0x0303) | choice
            yield _weights_of_pairs(k), _named(entries * 2 + [e - 2 for e in entries] * 2, named)
        return
    start = _words_in_memory(grid, code)
    less = select(down.ne(0), const(u8 * 32, 2), 0)
    for starts in _order(width):
        chosen = [start // 8 + i // 8 for start in starts for i in range(CHUNK)]
        yield starts, _loaded(start, grid.dims, indices, starts) - shuffle(less, chosen)


def even_signs(seven: Value) -> Value:
    """u8[n] below 128 -> u8[n]: the eighth sign makes the number of minus signs even."""
    n = seven.type.lanes
    return seven | (call(f"llvm.ctpop.v{n}i8", u8 * n, seven) << 7)


def signs_of_info(info: Value) -> Value:
    """u32[8] with four times seven signs in their lower bits -> u8[32] with eight each."""
    seven = (info & 0x7F) | ((info << 1) & 0x7F00)
    seven = seven | ((info << 2) & 0x7F0000) | ((info << 3) & 0x7F000000)
    return even_signs(seven.bits(u8 * 32))


def nibbles(packed: Value) -> Value:
    """u8[n] -> u8[2n]: the low four bits of each byte, then the high ones."""
    both = [packed & 15, packed >> 4]
    n = packed.type.lanes
    return shuffle(both[0], [i // 2 + n * (i % 2) for i in range(2 * n)], both[1])


# -- words in registers ---------------------------------------------------------------------------
# A word's fields lie so that shifts and masks alone put the numbers of its levels into bytes: each
# vector has a few fields of every word, and any four bytes in a row belong to 16 weights in a row.


def _in_registers(width: int) -> bool:
    return target().looks_up_words and width == target().nbytes


def _words(grid: Grid, indices: Value) -> list[Value]:
    """u16[32] each: the words that u16[32] or u16[64] indices name."""
    packed, count = _packed(grid), indices.type.lanes
    if count % 64 == 0 and target().looks_up_many:
        parts = [target().lookup_words(packed, some) for some in split(indices, 64)]
        return [words for part in parts for words in split(part, 32)]
    if len(packed) <= MOST_LOOKED_UP:
        return [target().lookup_words(packed, some) for some in split(indices, 32)]
    start, quads = table(u16, packed), indices.bits(u64 * (indices.type.lanes // 4))
    words = undefined(indices.type)
    for i in range(indices.type.lanes):
        index = ((quads[i // 4] >> 16 * (i % 4)) & 0xFFFF).to(i64)
        words = words.with_lane(i, load(u16, start + 2 * index))
    return split(words, 32)


def _signed_pairs(
    words: list[Value], signs: Value, plus: list[int], minus: list[int]
) -> Iterator[Part]:
    """u16[32] words of eight two-bit fields, of which k and k + 4 are in vector k."""
    wide = signs.to(u16)
    halves = (wide | (wide << 4)) & 0x0F0F  # the signs of fields 0..3 and 4..7
    for k in range(4):
        # Bits 0 and 1 name the level, bit 3 is the sign; what is in bits 2 and 4..6 has no effect.
        named = ((words[0] >> 2 * k) & 0x0303) | ((halves << (3 - k)) & 0xFCFC)
        yield _weights_of_pairs(k), _named(plus * 2 + minus * 2, named)


def _weights_of_pairs(k: int) -> list[int]:
    return [8 * i + k + h for i in range(32) for h in (0, 4)]


def _signed_nibbles(
    words: list[Value], signs: Value, plus: list[int], minus: list[int]
) -> Iterator[Part]:
    """u16[32] words of four four-bit fields, of which vector k of a half has two."""
    for half, some in enumerate(words):
        every = shuffle(signs, [16 * half + i // 4 for i in range(64)])
        for k in range(2):
            bits = [1 << 2 * k + i for i in (0, 1, 4, 5)]
            negative = (every & const(u8 * 64, bits * 16)).ne(0)
            levels = (some >> 4 * k).bits(u8 * 64) & 15
            named = levels + select(negative, const(u8 * 64, 8), 0)
            weights = [128 * half + 4 * i + 2 * k + h for i in range(32) for h in range(2)]
            yield weights, _named(plus + minus, named.bits(u16 * 32))


def _named(entries: list[int], numbers: Value) -> Value:
    """u8[64]: entries of a table of 16, by the lower four bits of each byte; bit 7 must be 0."""
    return target().lookup16(entries, numbers.bits(u8 * 64)).bits(u8 * 64)


def _level_bits(grid: Grid) -> int:
    return 2 if grid.dims == 8 else 3


@cache
def _packed(grid: Grid) -> tuple[int, ...]:
    """Codebook in words of 16 bits, as the unpacking wants them."""
    places = range(0, 16, 2) if grid.dims == 8 else [0, 8, 4, 12]
    packed = []
    for first in range(0, len(grid.numbers), grid.dims):
        fields = map(grid.levels.index, grid.numbers[first : first + grid.dims])
        packed.append(sum(n << place for n, place in zip(fields, places, strict=True)))
    return tuple(packed)


# -- words in memory ------------------------------------------------------------------------------


def _words_in_memory(grid: Grid, code: Callable[[int], int]) -> Value:
    """Address of the codebook with a byte `code(level)` for each level."""
    words = [
        int.from_bytes(bytes(map(code, grid.numbers[first : first + grid.dims])), "little")
        for first in range(0, len(grid.numbers), grid.dims)
    ]
    return table(_word(grid.dims), words)


def _word(dims: int) -> Type:
    return u64 if dims == 8 else u32


def _order(width: int) -> list[list[int]]:
    """Starts of chunks; the two chunks of 32 weights lie in the same lanes of two vectors."""
    chunks = width // CHUNK
    return [
        [32 * lane + 16 * half for lane in range(first, first + chunks)]
        for first in range(0, BLOCK // 32, chunks)
        for half in range(2)
    ]


def _loaded(start: Value, dims: int, indices: Value, starts: list[int]) -> Value:
    """u8[16 * len(starts)]: the words of those chunks, one load each."""
    word = _word(dims)
    address = scratch(2 * indices.type.lanes)
    store(address, indices)
    places = [start // dims + i for start in starts for i in range(CHUNK // dims)]
    out = undefined(word * len(places))
    for lane, place in enumerate(places):
        index = load(u16, address + 2 * place).to(i64)
        out = out.with_lane(lane, load(word, start + index * dims))
    return out.bits(u8 * (dims * len(places)))
