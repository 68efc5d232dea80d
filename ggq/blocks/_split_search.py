"""What the quantizers of IQ1_S and IQ1_M share: the best split of sorted weights into three runs.

With the weights in ascending order, each of the levels -1, 0 and 1, all shifted by an eighth up or
down, takes a run of them; all splits are tried on running sums. The words nearest to the levels
come last. In IQ1_M each half of a sub-block has a shift of its own.
Source: llama.cpp ggml/src/ggml-quants.c, quantize_row_iq1_s_impl and quantize_row_iq1_m_impl.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ggq.blocks._lanes import Tile, lanes
from ggq.blocks._nearest_word import Words, is_off
from ggq.jit.isa import target
from ggq.jit.lang import (
    Value,
    absolute,
    const,
    f32,
    i32,
    i64,
    lane_bits,
    loop,
    maximum,
    scatter,
    select,
    splat,
    var,
    when,
    zeros,
)

SHIFT = 0.125  # IQ1S_DELTA and IQ1M_DELTA of llama.cpp ggml-common.h
UP = (-1 + SHIFT, SHIFT, 1 + SHIFT)
DOWN = (-1 - SHIFT, -SHIFT, 1 - SHIFT)
_LARGEST = 3.4028234663852886e38  # FLT_MAX


class Fit(NamedTuple):
    """Of a sub-block: w = scale * (level + shift), in words.

    `shifts` has a bit for each half, the last one lowest, set for down. Where a sub-block counts as
    zero all is 0.
    """

    scale: Value
    shifts: Value
    entries: list[Value]


def fit_split(x: Tile, w: Tile, n: int, halves: int, smallest: float, words: Words) -> Fit:
    """Fit n weights x of importance w; without a weight as large as `smallest` they are zero."""
    high = var(absolute(x[0]))
    for i in loop(1, n):
        high.set(maximum(high, absolute(x[i])))
    rank = _ranks(x, n)
    tried = (_splits_of_one if halves == 1 else _splits_of_halves)(x, w, rank, n, high.value)
    scale, shifts = tried.scale.value, tried.split & 3
    first, second = tried.split >> 2 & 63, tried.split >> 8
    some = ~(high < smallest) & (tried.split >= 0)
    turned, one = scale < 0.0, const(lanes(i32), 1)
    levels = Tile(n, i32)
    for i in loop(n):
        level = select(rank[i] < second, select(rank[i] < first, one - 1, 1), 2)
        levels[i] = select(turned, 2 - level, level)
    scale = select(turned, -scale, scale)
    shifts = select(some, select(turned, shifts ^ 2**halves - 1, shifts), 0)
    scale, entries = _nearest_words(x, w, levels, scale, shifts, halves, some, words)
    return Fit(select(some, scale, 0.0), shifts, [select(some, e, 0) for e in entries])


def _ranks(x: Tile, n: int) -> Tile:
    """i32: how many weights come before each in ascending order; equal ones keep their order."""
    rank = Tile(n, i32)
    for i in loop(n):
        rank[i] = zeros(lanes(i32))
    for i in loop(n):
        own, mine = x[i], var(rank[i])
        for j in loop(i + 1, n):
            before = own <= x[j]
            rank[j] = select(before, rank[j] + 1, rank[j])
            mine.set(select(before, mine, mine + 1))
        rank[i] = mine.value
    return rank


def _running(values: Callable[[Value], Value], rank: Tile, n: int) -> Tile:
    """Sums of the first 0, 1, ..., n values in the order of the ranks."""
    ordered, sums = Tile(n), Tile(n + 1)
    lane = const(i64 * target().lanes, range(target().lanes))
    for i in loop(n):
        places = rank[i].to(i64) * target().lanes + lane
        scatter(places * 4 + ordered.address, values(i))
    sums[0] = zeros(lanes())
    for i in loop(n):
        sums[i + 1] = sums[i] + ordered[i]
    return sums


class _Tried:
    """The best split so far: the one of largest (sum w x level)^2 / (sum w level^2).

    `split` is -1 or shifts | first << 2 | second << 8: ranks below `first` get the lowest level,
    those from `second` on the highest one.
    """

    def __init__(self, scale: Value) -> None:
        self.scale, self.split = var(scale), var(const(lanes(i32), -1))
        self._score = var(const(lanes(), -_LARGEST))

    def offer(self, sum_qx: Value, sum_q2: Value, split: Value) -> None:
        """Take a split where it is better."""
        better = (sum_q2 > 0.0) & (sum_qx * sum_qx > self._score * sum_q2)
        with when(lane_bits(better).ne(0)):
            self.scale.set(select(better, sum_qx / sum_q2, self.scale))
            self._score.set(select(better, self.scale * sum_qx, self._score))
            self.split.set(select(better, splat(split, target().lanes), self.split))


def _splits_of_one(x: Tile, w: Tile, rank: Tile, n: int, scale: Value) -> _Tried:
    sum_x = _running(lambda i: w[i] * x[i], rank, n)
    sum_w = _running(lambda i: w[i], rank, n)
    up_x, up_w, down_x, down_w = (Tile(n + 1) for _ in range(4))
    for i in loop(n + 1):
        above_x, above_w = sum_x[n] - sum_x[i], sum_w[n] - sum_w[i]
        up_x[i], up_w[i] = above_x * UP[2], above_w * UP[2] * UP[2]
        down_x[i], down_w[i] = above_x * DOWN[2], above_w * DOWN[2] * DOWN[2]
    tried = _Tried(scale)
    for first in loop(n + 1):
        x1, w1 = sum_x[first], sum_w[first]
        for second in loop(first, n + 1):
            middle_x = (sum_x[second] - x1) * SHIFT
            middle_w = (sum_w[second] - w1) * SHIFT * SHIFT
            split = (first << 2 | second << 8).to(i32)
            tried.offer(
                x1 * UP[0] + middle_x + up_x[second],
                w1 * UP[0] * UP[0] + middle_w + up_w[second],
                split,
            )
            tried.offer(
                x1 * DOWN[0] - middle_x + down_x[second],
                w1 * DOWN[0] * DOWN[0] + middle_w + down_w[second],
                split | 1,
            )
    return tried


def _splits_of_halves(x: Tile, w: Tile, rank: Tile, n: int, scale: Value) -> _Tried:
    def half(values: Callable[[Value], Value], h: int) -> Tile:
        def of_half(i: Value) -> Value:
            return select(i < n // 2 if h == 0 else i >= n // 2, values(i), 0.0)

        return _running(of_half, rank, n)

    sum_x = [half(lambda i: w[i] * x[i], h) for h in range(2)]
    sum_w = [half(lambda i: w[i], h) for h in range(2)]
    step = {levels: _steps(levels) for levels in (UP, DOWN)}
    tried = _Tried(scale)
    for first in loop(n + 1):
        for second in loop(first, n + 1):
            terms = []
            for x_, w_ in zip(sum_x, sum_w, strict=True):
                both = x_[first] + x_[second]
                terms.append([
                    (
                        x_[n] * levels[2] - both,
                        w_[n] * levels[2] * levels[2]
                        + w_[first] * step[levels][0]
                        + w_[second] * step[levels][1],
                    )
                    for levels in (UP, DOWN)
                ])  # fmt: skip
            split = (first << 2 | second << 8).to(i32)
            for shifts in range(4):
                (x0, w0), (x1, w1) = terms[0][shifts >> 1], terms[1][shifts & 1]
                tried.offer(x0 + x1, w0 + w1, split | shifts)
    return tried


def _steps(levels: tuple[float, ...]) -> tuple[float, float]:
    """By how much the square of a level exceeds that of the next; all of it exact."""
    a, b, c = (level * level for level in levels)
    return a - b, b - c


def _nearest_words(
    x: Tile, w: Tile, levels: Tile, scale: Value, shifts: Value, halves: int, some: Value,
    words: Words,
) -> tuple[Value, list[Value]]:  # fmt: skip
    """(scale for the words, their entries); the scale stays where all levels are words."""
    count = levels.length // 8
    entries, off = Tile(count, i32), var(zeros(lanes(i32)))
    sum_qx, sum_q2 = var(zeros(lanes())), var(zeros(lanes()))
    for k in loop(count):
        shift = shift_of(shifts, k, halves)
        multiples = [scale * (shift + float(level - 1)) for level in range(3)]
        xs, ws = ([tile[8 * k + i] for i in range(8)] for tile in (x, w))

        def cost(
            i: int, level: int, multiples: list[Value] = multiples,
            xs: list[Value] = xs, ws: list[Value] = ws,
        ) -> Value:  # fmt: skip
            difference = multiples[level] - xs[i]
            return ws[i] * difference * difference

        entry = words.nearest([levels[8 * k + i] for i in range(8)], cost, some)
        entries[k] = entry
        off.set(off | entry)
        for level, weight, importance in zip(words.levels(entry), xs, ws, strict=True):
            q = (level - 1).to(f32) + shift
            sum_qx += importance * q * weight
            sum_q2 += importance * q * q
    better = is_off(off) & (sum_qx > 0.0) & (sum_q2 > 0.0)
    return select(better, sum_qx / sum_q2, scale), [entries[k] for k in range(count)]


def shift_of(shifts: Value, k: Value, halves: int) -> Value:
    """f32: the shift of half k, or of all."""
    down = shifts if halves == 1 else shifts >> splat((1 - k).to(i32), target().lanes)
    return select((down & 1).ne(0), const(lanes(), -SHIFT), SHIFT)
