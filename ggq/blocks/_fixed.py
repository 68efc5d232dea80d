"""The fixed frame: floats of 16 bits meet many tokens as integers of 16 bits.

Processors that add the products of two pairs of 16-bit integers at once do so at twice the speed
of singles. Of every 64 weights, and of every 64 activations, the largest possible multiple is
rounded with which neither a number leaves its 16 bits nor any sum of products its 32: by Cauchy and
Schwarz a sum is at most the product of the two norms. That loses less than rounding activations to
halves or bfloats does. Few tokens are multiplied as singles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from ggq.blocks._float import FloatFrame
from ggq.blocks._frame import (
    Ahead,
    lines,
    padded,
    panel_rows,
    row_addresses,
    tile_tokens,
    token_values,
)
from ggq.jit.isa import target
from ggq.jit.lang import (
    Value,
    absolute,
    const,
    f32,
    fma,
    hmax,
    hsum,
    i16,
    i32,
    i64,
    load,
    loop,
    maximum,
    minimum,
    scratch,
    select,
    splat,
    sqrt,
    store,
    u16,
    u32,
    var,
    when,
    zeros,
)
from ggq.jit.transpose import columns

if TYPE_CHECKING:
    from ggq.blocks._base import BlockType

BLOCK = 64  # numbers that share a scale
LARGEST = 32767.0  # of an integer
LONGEST = 46300.0  # norm of a block of them: its square, and what rounding adds, is below 2^31
NOTHING = 1.2e-38  # up to here a number counts as 0: its inverse may be infinite


class FixedFrame(FloatFrame):
    """Panels: per block 32 words of two integers [word][row], and scales [row].

    Tiles: per block the words [token][word], and scales [token].

    `widened` makes f32[n] of a family's u16[n].
    """

    key = "fixed"
    tile_number = 2

    def __init__(self, family: BlockType, widened: Callable[[Value], Value]) -> None:
        super().__init__(family)
        self.widened = widened

    def _line(self) -> int:
        return 4 * panel_rows()

    def _panel_block(self) -> int:
        return (BLOCK // 2 + 1) * self._line()

    def _tile_block(self) -> int:
        return (BLOCK // 2 + 1) * 4 * tile_tokens()

    def panel_bytes(self, cols: int) -> int:
        return padded(-(-cols // BLOCK) * self._panel_block())

    def tile_bytes(self, cols: int) -> int:
        return padded(-(-cols // BLOCK) * self._tile_block())

    def before(self, col: Value) -> tuple[Value, Value]:
        return col // BLOCK * self._panel_block(), col // BLOCK * self._tile_block()

    def steps(self, cols: Value) -> Value:
        return (cols + (BLOCK - 1)) // BLOCK

    def pack_panel(self, row: Callable[[int], Value], cols: Value, panel: Value) -> None:
        rows, addresses, line = panel_rows(), row_addresses(row), self._line()
        raw = scratch(2 * BLOCK * rows)  # [row][weight], as in the file
        for b in loop(self.steps(cols)):
            out, first = panel + b * self._panel_block(), b * BLOCK
            for r in loop(rows):
                start = load(i64, addresses + r * 8, 8) + first * 2
                _copy_short(start, minimum(cols - first, const(i64, BLOCK)), raw + r * (2 * BLOCK))
            for k in range(0, 2 * BLOCK, target().nbytes):
                each = lines(u32 * target().lanes, raw + k, 2 * BLOCK)
                for word, column in enumerate(columns(each), k // 4):
                    store(out + word * line, column, 4)
            scale = self._round(out)
            store(out + (BLOCK // 2) * line, scale, 4)

    def _round(self, block: Value) -> Value:
        """Make integers of the weights of a block of a panel; f32[rows] to multiply them by."""
        rows = panel_rows()
        peak, square = var(zeros(f32 * rows)), var(zeros(f32 * rows))
        for pair, _ in self._pairs(block):
            for w in pair:
                peak.set(maximum(absolute(w), peak))
        inverse = select(peak > NOTHING, 1 / peak, zeros(f32 * rows))
        for pair, _ in self._pairs(block):
            for w in pair:
                part = w * inverse
                square.set(fma(part, part, square))
        most = _most(square.value)
        for pair, at in self._pairs(block):
            low, high = (_integers(w * inverse, most) for w in pair)
            store(at, (low & 0xFFFF) | (high << 16), 4)
        return peak / most

    def _pairs(self, block: Value) -> Iterator[tuple[list[Value], Value]]:
        """The two weights of every word as f32[rows], and the word's address."""
        step = 4
        for word in loop(0, BLOCK // 2, step):
            for k in range(step):
                at = block + (word + k) * self._line()
                both = load(u32 * panel_rows(), at, 4)
                yield [self.widened(half.to(u16)) for half in (both, both >> 16)], at

    def write_tile(self, x: Value, cols: Value, tile: Value, token: Value) -> None:
        for b in loop(self.steps(cols)):
            out = tile + b * self._tile_block()
            integers, scale = var(zeros(i16 * BLOCK)), var(const(f32, 0.0))
            with when(x.ne(0)):
                rounded, by = _rounded(_block(x, b, cols))
                integers.set(rounded)
                scale.set(by)
            store(out + token * (2 * BLOCK), integers.value, 4)
            store(out + ((BLOCK // 2) * 4 * tile_tokens() + token * 4), scale.value, 4)

    def multiply(
        self, panel: Value, tile: Value, cols: Value, ahead: Ahead | None = None
    ) -> list[Value]:
        rows, tokens = panel_rows(), tile_tokens()
        sums = [var(zeros(f32 * rows)) for _ in range(tokens)]
        for b in loop(self.steps(cols)):
            if ahead:
                ahead.step()
            p, x = panel + b * self._panel_block(), tile + b * self._tile_block()
            acc = [zeros(i32 * rows)] * tokens
            for k in range(BLOCK // 2):
                w = load(i16 * (2 * rows), p + k * self._line(), 4)
                for t, pair in enumerate(target().tile_words(x, BLOCK // 2, k)):
                    acc[t] = target().dot_pairs(acc[t], w, pair.bits(w.type))
            scale = load(f32 * rows, p + (BLOCK // 2) * self._line(), 4)
            for t, dx in enumerate(token_values(f32, x, BLOCK // 2)):
                sums[t].set(fma(acc[t].to(f32), scale * dx, sums[t]))
        return [s.value for s in sums]


def _block(x: Value, b: Value, cols: Value) -> Value:
    """f32[BLOCK]: block b of x f32[cols], zeros behind the last."""
    first, numbers = b * BLOCK, var(zeros(f32 * BLOCK))
    count = cols - first
    with when(count >= BLOCK):
        numbers.set(load(f32 * BLOCK, x + first * 4, 4))
    with when(count < BLOCK):
        last = scratch(4 * BLOCK)
        store(last, zeros(f32 * BLOCK), 4)
        for i in loop(count):
            store(last + i * 4, load(f32, x + (first + i) * 4, 4), 4)
        numbers.set(load(f32 * BLOCK, last, 4))
    return numbers.value


def _copy_short(source: Value, count: Value, out: Value) -> None:
    """u16[count] to u16[BLOCK], zeros behind the last."""
    with when(count.eq(BLOCK)):
        store(out, load(u16 * BLOCK, source, 2), 4)
    with when(count < BLOCK):
        store(out, zeros(u16 * BLOCK), 4)
        for i in loop(count):
            store(out + i * 2, load(u16, source + i * 2, 2), 2)


def _rounded(numbers: Value) -> tuple[Value, Value]:
    """f32[BLOCK] -> (i16[BLOCK], f32 by which they are to be multiplied)."""
    peak = hmax(absolute(numbers))
    inverse = select(peak > NOTHING, 1 / peak, const(f32, 0.0))
    parts = numbers * splat(inverse, BLOCK)
    most = _most(hsum(parts * parts))
    return _integers(parts, splat(most, BLOCK)).to(i16), peak / most


def _most(square: Value) -> Value:
    """The largest integer to make of the largest of numbers, which is 1; `square` is their norm's.

    Relative to the largest no square is infinite. What is no number makes the scale none.
    """
    return minimum(const(square.type, LARGEST), LONGEST / sqrt(square))


def _integers(parts: Value, most: Value) -> Value:
    return target().round_even(parts * most).to(i32)
