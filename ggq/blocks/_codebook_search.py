"""What the quantizers of IQ2 and IQ3 share: a scale and codebook words for sub-blocks of weights.

A sub-block is tried at many scales, which are the lanes here; everything before and after has a
block in each lane, as elsewhere.
Source: llama.cpp ggml/src/ggml-quants.c, quantize_row_iq2_xxs_impl and those of IQ2_XS, IQ2_S,
IQ3_XXS and IQ3_S.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ggq.blocks._lanes import Lanes, Tile, lanes
from ggq.blocks._nearest_word import Words, is_off, number
from ggq.blocks._neighbours import OFF, Lattice
from ggq.blocks._search import clamp, nearest_int, positive, sum_squares, weigh
from ggq.jit.isa import target
from ggq.jit.lang import (
    Value,
    const,
    f32,
    gather,
    i32,
    i64,
    load,
    loop,
    maximum,
    scatter,
    scratch,
    select,
    splat,
    sqrt,
    store,
    table,
    u8,
    var,
    zeros,
)

_F = np.float32


class Recipe(NamedTuple):
    """What differs between the types."""

    lattice: Lattice
    size: int  # weights of a sub-block
    tries: int  # scales on either side of the first one
    step: float  # between the numerators of inverse scales
    smallest: float  # a sub-block without a larger weight counts as zero
    square: float  # how much of the mean square counts in the importance of a weight
    even_signs: bool = False  # of eight signs an even number is minus
    fitted: bool = False  # scales are tried around a fit, not around largest weight = top level
    again: str = "off"  # which words are searched again in the end: off, all, all if some are off

    @property
    def groups(self) -> int:
        """Words of a sub-block."""
        return self.size // self.lattice.dims

    @property
    def top(self) -> int:
        """The largest level as the search counts them: 1, 3, 5, ..."""
        return 2 * self.lattice.levels - 1

    @property
    def numerators(self) -> list[float]:
        """Of the inverse scales tried, as the C code computes them."""
        steps = range(-self.tries, self.tries + 1)
        return [float(_F(self.top) + _F(self.step) * _F(i)) for i in steps]


class Found(NamedTuple):
    """Of the sub-blocks of a super-block: scales, word numbers, and signs as bits of eight.

    `some` is 0 where a sub-block counts as zero, else 1.
    """

    some: Tile
    scales: Tile
    words: Tile
    signs: Tile


Weigh = Callable[[Tile, Tile, int, Value], None]


def search_words(b: Lanes, recipe: Recipe, weigh_plain: Weigh) -> Found:
    """Fit every sub-block. What counts as zero has scale 0 and words and signs 0."""
    words = Words(recipe.lattice, b.tables)
    size, groups, count = recipe.size, recipe.groups, b.family.weights // recipe.size
    found = Found(
        Tile(count, i32),
        Tile(count),
        Tile(count * groups, i32),
        Tile(b.family.weights // 8, i32),
    )
    square = sum_squares(b.x, b.family.weights) * recipe.square / b.family.weights
    part = _Part(recipe, words)
    for j in loop(count):
        x = b.x.part(j * size)
        if b.weighted:
            b.importance(part.w, j * size, size)
            weigh(part.w, x, size, square)
        else:
            weigh_plain(part.w, x, size, square)
        part.take(x)
        some = part.some()
        scale, entries, signs = part.fit()
        found.some[j] = select(some, const(lanes(i32), 1), 0)
        found.scales[j] = select(some, scale, 0.0)
        for k in range(groups):
            found.words[j * groups + k] = select(some, number(entries[k]), 0)
        for k in range(size // 8):
            found.signs[j * (size // 8) + k] = select(some, signs[k], 0)
    return found


class _Part:
    """A sub-block of every lane: weights without signs, their importance, and the signs."""

    def __init__(self, recipe: Recipe, words: Words) -> None:
        self.recipe, self.words = recipe, words
        self.x, self.w, self.roots, self.wx = (Tile(recipe.size) for _ in range(4))
        self.signs = Tile(recipe.size // 8, i32)
        self._scan = _Scan(self)

    def take(self, x: Tile) -> None:
        """Split signs off; where an odd number is minus but must not be, turn the cheapest."""
        size = self.recipe.size
        for i in loop(size):
            self.roots[i] = sqrt(self.w[i])
        for k in loop(size // 8):
            signs = zeros(lanes(i32))
            for place in range(8):
                weight = x[8 * k + place]
                plus = weight >= 0.0
                self.x[8 * k + place] = select(plus, weight, -weight)
                signs = signs | select(plus, const(lanes(i32), 0), 1 << place)
            self.signs[k] = signs
            if self.recipe.even_signs:
                self._make_even(x.part(8 * k), k)
        for i in loop(size):
            self.wx[i] = self.w[i] * self.x[i]

    def _make_even(self, x: Tile, k: Value) -> None:
        w, magnitudes = self.w.part(8 * k), self.x.part(8 * k)
        signs = self.signs[k]
        parity = signs ^ signs >> 4
        parity = parity ^ parity >> 2
        odd = (parity ^ parity >> 1) & 1
        cheapest, least = const(lanes(i32), 0), w[0] * x[0] * x[0]
        for i in range(1, 8):
            cost = w[i] * x[i] * x[i]
            less = cost < least
            least, cheapest = select(less, cost, least), select(less, i, cheapest)
        for i in range(8):
            turned = odd.ne(0) & cheapest.eq(i)
            magnitudes[i] = select(turned, -magnitudes[i], magnitudes[i])
        turn: Value = const(lanes(i32), 1) << cheapest
        self.signs[k] = select(odd.ne(0), signs ^ turn, signs) & 127

    def some(self) -> Value:
        """Bit: whether the sub-block does not count as zero."""
        recipe = self.recipe
        high = var(self.x[0])
        for i in loop(1, recipe.size):
            high.set(maximum(high, self.x[i]))
        some = high.ne(0.0) if recipe.smallest == 0 else ~(high < recipe.smallest)
        if recipe.fitted:
            self.start, _ = positive(self.x, self.w, recipe.size, recipe.lattice.levels + 1)
            self.reference = self.start * float(recipe.lattice.levels)
            return some & ~(self.reference <= 0.0)
        self.start, self.reference = high / float(recipe.top), high.value
        return some

    def fit(self) -> tuple[Value, list[Value], list[Value]]:
        """(scale, entries of the words, signs)."""
        recipe = self.recipe
        chosen, scale = self._scan.best(self.reference, self.start)
        first = const(lanes(i32), OFF if recipe.again == "all if some are off" else 0)
        entries = [select(chosen < 0, first, self._scan.entries(k, chosen))
                   for k in range(recipe.groups)]  # fmt: skip
        entries, scale = self._search_again(entries, scale)
        mask = 127 if recipe.even_signs else 255
        signs = [self.signs[k] for k in range(recipe.size // 8)]
        signs = [select(scale < 0.0, ~s & mask, s) for s in signs]
        return select(scale < 0.0, -scale, scale), entries, signs

    def _search_again(self, entries: list[Value], scale: Value) -> tuple[list[Value], Value]:
        """Words for the scale found, and the scale for those words."""
        recipe = self.recipe
        needed = scale > 0.0
        if recipe.again != "all":
            some_off = entries[0]
            for e in entries[1:]:
                some_off = some_off | e
            needed = needed & is_off(some_off)
        inverse, levels = 1.0 / scale, self.multiples(scale)
        sum_qx, sum_q2 = var(zeros(lanes())), var(zeros(lanes()))
        kept = Tile.of(*entries)
        for k in loop(recipe.groups):
            wanted = needed & is_off(kept[k]) if recipe.again == "off" else needed
            at = k * recipe.lattice.dims
            places = [at + i for i in range(recipe.lattice.dims)]
            x, roots = [self.x[i] for i in places], [self.roots[i] for i in places]
            entry = self.nearest(x, roots, inverse, levels, wanted)
            kept[k] = select(wanted, entry, kept[k])
            for i, q in enumerate(self.words.levels(kept[k])):
                q = (q * 2 + 1).to(f32)
                sum_qx += self.wx[at + i] * q
                sum_q2 += self.w[at + i] * q * q
        better = needed & (sum_q2 > 0.0)
        return [kept[k] for k in range(recipe.groups)], select(better, sum_qx / sum_q2, scale)

    def multiples(self, scale: Value) -> list[Value]:
        """What each level stands for."""
        return [scale * float(2 * level + 1) for level in range(self.recipe.lattice.levels)]

    def nearest(
        self, x: list[Value], roots: list[Value], inverse: Value, levels: list[Value],
        wanted: Value | None = None,
    ) -> Value:  # fmt: skip
        """Entries of the nearest words for weights x; `levels` is what the levels stand for."""
        top = self.recipe.lattice.levels - 1

        def cost(i: int, level: int) -> Value:
            difference = levels[level] - x[i]
            return roots[i] * difference * difference

        point = [clamp(nearest_int((inverse * weight - 1.0) * 0.5), 0, top) for weight in x]
        return self.words.nearest(point, cost, wanted)


class _Scan:
    """All scales tried for a sub-block, one after the other for the blocks in the lanes."""

    def __init__(self, part: _Part) -> None:
        self._part, self._tries = part, len(part.recipe.numerators)
        self._runs = _runs(self._tries, target().lanes)
        self._columns = sum(width * times for width, times in self._runs)
        self._sum_qx, self._sum_q2 = Tile(self._columns), Tile(self._columns)
        self._entries = scratch(4 * target().lanes * part.recipe.groups * self._columns)

    def best(self, reference: Value, start: Value) -> tuple[Value, Value]:
        """(number of the best try or -1, its scale or `start`), in the lanes of the blocks.

        A try's inverse scale is its numerator / reference.
        """
        references = Tile.of(reference)
        numerators = self._part.recipe.numerators
        numerators += numerators[-1:] * (self._columns - self._tries)
        for lane in loop(target().lanes):
            first = 0
            for width, times in self._runs:
                for n in loop(times):
                    self._try(lane, first + n * width, width, references, table(f32, numerators))
                first += width * times
        chosen, scale = var(const(lanes(i32), -1)), var(start)
        best = var(zeros(lanes()))
        for c in loop(self._tries):
            sum_qx, sum_q2 = self._sum_qx[c], self._sum_q2[c]
            better = (sum_q2 > 0.0) & (sum_qx * sum_qx > best * sum_q2)
            scale.set(select(better, sum_qx / sum_q2, scale))
            best.set(select(better, scale * sum_qx, best))
            chosen.set(select(better, splat(c.to(i32), target().lanes), chosen))
        return chosen.value, scale.value

    def entries(self, k: int, chosen: Value) -> Value:
        """i32 entries of word k of the chosen tries, in the lanes of the blocks."""
        rows = const(i64 * target().lanes, range(target().lanes)) * self._part.recipe.groups
        column = maximum(chosen, 0).to(i64)
        return gather(i32, ((rows + k) * self._columns + column) * 4 + self._entries)

    def _try(
        self, lane: Value, first: Value, width: int, references: Tile, numerators: Value
    ) -> None:
        """Sums and entries of `width` tries of one block."""
        part, vector = self._part, f32 * width
        dims, groups = part.recipe.lattice.dims, part.recipe.groups
        inverse = load(vector, numerators + first * 4) / splat(references.lane(lane), width)
        levels = part.multiples(1.0 / inverse)
        sum_qx, sum_q2 = var(zeros(vector)), var(zeros(vector))

        def of_block(tile: Tile, k: Value) -> list[Value]:
            return [splat(tile.lane(lane, k * dims + i), width) for i in range(dims)]

        for k in loop(groups):
            x, roots = of_block(part.x, k), of_block(part.roots, k)
            entry = part.nearest(x, roots, inverse, levels)
            row = (lane * groups + k) * self._columns + first
            store(self._entries + row * 4, entry)
            levels_of = part.words.levels(entry)
            for wx, w, level in zip(
                of_block(part.wx, k), of_block(part.w, k), levels_of, strict=True
            ):
                q = (level * 2 + 1).to(f32)
                sum_qx += wx * q
                sum_q2 += w * q * q
        columns = const(i64 * width, range(width)) + first
        places = (columns * target().lanes + lane) * 4
        scatter(places + self._sum_qx.address, sum_qx.value)
        scatter(places + self._sum_q2.address, sum_q2.value)


def _runs(tries: int, lanes: int) -> list[tuple[int, int]]:
    """(width, how many) of the vectors that hold the tries."""
    whole, rest = divmod(tries, lanes)
    runs = [(lanes, whole)] if whole else []
    return [*runs, (max(4, 1 << (rest - 1).bit_length()), 1)] if rest else runs


def put_scale(b: Lanes, scales: Tile, factor: float) -> tuple[Value, list[Value]]:
    """Write d, times a factor; (bit: whether a scale is not zero, codes 0..15 of the scales).

    A code stands for 2 code + 1 steps of the largest scale / 31.
    """
    count = scales.length
    high = var(zeros(lanes()))
    for j in loop(count):
        high.set(maximum(high, scales[j]))
    step = high / 31.0
    b.put_half("d", step * factor)
    inverse, some = 1.0 / step, high.ne(0.0)
    codes = [clamp(nearest_int((inverse * scales[j] - 1.0) * 0.5), 0, 15) for j in range(count)]
    return some, [select(some, code, 0) for code in codes]


def put_scale_nibbles(b: Lanes, codes: list[Value]) -> None:
    """Write scale codes, two to a byte, the first one low."""
    pairs = zip(codes[::2], codes[1::2], strict=True)
    b.put("scales", Tile.of(*((low | high << 4).to(u8) for low, high in pairs)), len(codes) // 2)


def square_weights(w: Tile, x: Tile, n: int, square: Value) -> None:
    """Importance by square, where nothing else is said."""
    for i in loop(n):
        w[i] = x[i] * x[i]


def offset_square_weights(w: Tile, x: Tile, n: int, square: Value) -> None:
    """Importance by square, offset by a quarter of the mean square, in IQ2_S."""
    for i in loop(n):
        w[i] = square * 0.25 + x[i] * x[i]
