"""IQ1_S and IQ1_M: 8-dimensional ternary codebook of 2048 words plus a shift.

Codes are eight times what is added up, so that shifts of 1/8 are whole: 8 * word +- 1.
"""

from __future__ import annotations

from collections.abc import Iterator

from ggq.blocks import _grids as grids
from ggq.blocks._base import U8, fields
from ggq.blocks._codebook import CodebookBlock, nibbles, shifted_codes
from ggq.blocks._lanes import Lanes, Tile, lanes
from ggq.blocks._nearest_word import Words, number
from ggq.blocks._neighbours import Lattice
from ggq.blocks._search import clamp, nearest_int, square_weights, sum_squares, weigh
from ggq.blocks._split_search import fit_split, shift_of
from ggq.blocks._view import Blocks
from ggq.jit.isa import target
from ggq.jit.lang import (
    Value,
    const,
    f32,
    i16,
    i32,
    load,
    loop,
    maximum,
    select,
    shuffle,
    splat,
    u8,
    u16,
    var,
    zeros,
)

_LATTICE = Lattice(grids.IQ1S, 3)


class _IQ1(CodebookBlock):
    """w = d / 8 * (2 sc + 1) * (8 * word +- 1)"""

    grid = grids.IQ1S
    offset = 9

    def shifts_down(self, blocks: Blocks) -> Value:
        """Whether to subtract, for every 8 weights: not 0 in u16[32]."""
        raise NotImplementedError

    def codes(self, blocks: Blocks, width: int) -> Iterator[tuple[list[int], Value]]:
        """Words with the shift added."""
        down, words = self.shifts_down(blocks), self.words(blocks)
        return shifted_codes(
            self.grid, lambda level: 8 * level + 10, words, down, width, blocks.found
        )


class IQ1_S(_IQ1):
    """w = d / 8 * (2 sc + 1) * (8 * word +- 1)   (1.5625 bits per weight)

    qh of every 32 weights: four times three upper bits of a word, a 3-bit scale, the shift's sign.
    """

    id = 19
    layout = fields(("d", "<f2"), ("qs", "u1", (32,)), ("qh", "<u2", (8,)))
    group = 32
    uses_importance = True
    needs_importance = True

    def words(self, blocks: Blocks) -> Value:
        """Eight bits in qs, three in qh."""
        high = shuffle(self._qh(blocks), [i // 4 for i in range(32)])
        high = (high >> const(u16 * 32, [0, 3, 6, 9] * 8)) & 7
        return blocks.bytes("qs").to(u16) | (high << 8)

    def shifts_down(self, blocks: Blocks) -> Value:
        """The top bit of qh."""
        return shuffle(self._qh(blocks), [i // 4 for i in range(32)]) & 0x8000

    def scales(self, blocks: Blocks) -> Value:
        """Three bits."""
        return ((self._qh(blocks) >> 12) & 7).to(i16) * 2 + 1

    def scale(self, blocks: Blocks) -> Value:
        """d / 8."""
        return blocks.half("d") * 0.125

    def _qh(self, blocks: Blocks) -> Value:
        return load(u16 * 8, blocks.address + 34)

    def quantize_tables(self) -> U8:
        """The codebook and its neighbours."""
        return _LATTICE.table()

    def quantize_lanes(self, b: Lanes) -> None:
        """Source: llama.cpp ggml-quants.c, quantize_row_iq1_s_impl."""
        square, w = sum_squares(b.x, 256) * 2.0 / 256.0, Tile(32)
        scales, tops, shifts = Tile(8), Tile(8, i32), Tile(8, i32)
        numbers = Tile(32, u8)
        for j in loop(8):
            x = b.x.part(32 * j)
            b.importance(w, 32 * j, 32)
            weigh(w, x, 32, square)
            fit = fit_split(x, w, 32, 1, 1e-12, Words(_LATTICE, b.tables))
            top = zeros(lanes(i32))
            for k, entry in enumerate(fit.entries):
                numbers[4 * j + k] = number(entry).to(u8)
                top = top | number(entry) >> 8 << 3 * k
            scales[j], shifts[j], tops[j] = fit.scale, fit.shifts, top
        step, codes = _scale_codes(scales)
        b.put_half("d", step * 1.125)
        stored = Tile(8, u16)
        for part, code in enumerate(codes):
            high = select(step.ne(0.0), code | shifts[part] << 3, 0)
            stored[part] = (tops[part] | high << 12).to(u16)
        b.put("qs", numbers, 32)
        b.put("qh", stored, 8)


class IQ1_M(_IQ1):
    """w = d / 8 * (2 sc + 1) * (8 * word +- 1)   (1.75 bits per weight)

    Every 8 weights: a word of 8 bits in qs and 3 in qh, and the shift's sign; every 16 a 3-bit
    scale. The upper four bits of each scale word together are d.
    """

    id = 29
    layout = fields(("qs", "u1", (32,)), ("qh", "u1", (16,)), ("scales", "u1", (8,)))
    group = 16
    uses_importance = True

    def words(self, blocks: Blocks) -> Value:
        """Eight bits in qs, three in qh."""
        high = nibbles(blocks.bytes("qh")).to(u16) & 7
        return blocks.bytes("qs").to(u16) | (high << 8)

    def shifts_down(self, blocks: Blocks) -> Value:
        """The top bit of each nibble of qh."""
        return (nibbles(blocks.bytes("qh")) & 8).to(u16)

    def scales(self, blocks: Blocks) -> Value:
        """Four times three bits in each word."""
        words = shuffle(load(u16 * 4, blocks.address + 48), [i // 4 for i in range(16)])
        return ((words >> const(u16 * 16, [0, 3, 6, 9] * 4)) & 7).to(i16) * 2 + 1

    def scale(self, blocks: Blocks) -> Value:
        """d / 8."""
        words = [load(u16, blocks.address + (48 + 2 * k)) >> 12 for k in range(4)]
        bits = words[0] | (words[1] << 4) | (words[2] << 8) | (words[3] << 12)
        return target().half_to_single(splat(bits, 1))[0] * 0.125

    def quantize_tables(self) -> U8:
        """The codebook and its neighbours."""
        return _LATTICE.table()

    def quantize_lanes(self, b: Lanes) -> None:
        """Source: llama.cpp ggml-quants.c, quantize_row_iq1_m_impl."""
        square, w = sum_squares(b.x, 256) * 2.0 / 256.0, Tile(256)
        scales, shifts, entries = Tile(16), Tile(16, i32), Tile(32, i32)
        codebook = Words(_LATTICE, b.tables)
        for j in loop(16):
            x, importance = b.x.part(16 * j), w.part(16 * j)
            if b.weighted:
                b.importance(importance, 16 * j, 16)
                weigh(importance, x, 16, square)
            else:
                square_weights(importance, x, 16)
            fit = fit_split(x, importance, 16, 2, 1e-7, codebook)
            scales[j], shifts[j] = fit.scale, fit.shifts
            entries[2 * j], entries[2 * j + 1] = fit.entries
        step, codes = _scale_codes(scales)
        some = step.ne(0.0)
        d = _refitted(b.x, w, entries, shifts, codes, codebook, step)
        bits = select(some, b.half(select(some, d * 1.1125, 0.0)).to(i32), 0)
        _put_words(b, entries, shifts, some)
        packed = Tile(4, u16)
        for part in range(4):
            word = (bits >> 4 * part & 15) << 12
            for k in range(4):
                word = word | codes[4 * part + k] << 3 * k
            packed[part] = word.to(u16)
        for block in b.each():
            for n in loop(4):
                block.put("scales", packed.lane(block.lane, n), n)


def _scale_codes(scales: Tile) -> tuple[Value, list[Value]]:
    """(largest scale / 15, codes 0..7 of the scales: 2 code + 1 steps); codes 0 for step 0."""
    high = var(zeros(lanes()))
    for j in loop(scales.length):
        high.set(maximum(high, scales[j]))
    step = high / 15.0
    inverse, some = 1.0 / step, high.ne(0.0)
    codes = [nearest_int((inverse * scales[j] - 1.0) * 0.5) for j in range(scales.length)]
    return step, [select(some, clamp(code, 0, 7), 0) for code in codes]


def _refitted(
    x: Tile, w: Tile, entries: Tile, shifts: Tile, codes: list[Value], words: Words, step: Value
) -> Value:
    """The least squares super-scale for what is stored."""
    sum_qx, sum_q2, stored = var(zeros(lanes())), var(zeros(lanes())), Tile.of(*codes)
    for j in loop(16):
        multiple = (stored[j] * 2 + 1).to(f32)
        for k in loop(2):
            shift = shift_of(shifts[j], k, 2)
            for i, level in enumerate(words.levels(entries[j * 2 + k])):
                q, at = ((level - 1).to(f32) + shift) * multiple, j * 16 + k * 8 + i
                sum_qx += w[at] * q * x[at]
                sum_q2 += w[at] * q * q
    return select(sum_q2 > 0.0, sum_qx / sum_q2, step)


def _put_words(b: Lanes, entries: Tile, shifts: Tile, some: Value) -> None:
    numbers, tops = Tile(32, u8), Tile(16, u8)
    for j in loop(16):
        first, second = number(entries[2 * j]), number(entries[2 * j + 1])
        numbers[2 * j], numbers[2 * j + 1] = first.to(u8), second.to(u8)
        downs = (shifts[j] >> 1) << 3 | (shifts[j] & 1) << 7
        tops[j] = (first >> 8 | second >> 8 << 4 | select(some, downs, 0)).to(u8)
    b.put("qs", numbers, 32)
    b.put("qh", tops, 16)
