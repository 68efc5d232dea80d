"""Scale searches shared by the families, one block a lane, each lane in the order of the C code.

Most searches return how they would code a weight, not the codes: those are made later, from the
scales as stored. Source: llama.cpp ggml/src/ggml-quants.c; the function is named in brackets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ggq.blocks._lanes import Tile, lanes
from ggq.jit.isa import target
from ggq.jit.lang import (
    Value,
    absolute,
    const,
    f32,
    hmax,
    i32,
    load,
    loop,
    maximum,
    minimum,
    repeat_while,
    select,
    sqrt,
    table,
    u32,
    var,
    zeros,
)  # fmt: skip

SMALLEST_GROUP = float(np.float32(1e-15))  # a block without a larger weight counts as zero
SWEEPS = 5  # of a coordinate descent
_ROUNDER = 12582912.0  # 1.5 * 2**23: adding it leaves the nearest integer in the mantissa
_F = np.float32


def nearest_int(x: Value) -> Value:
    """i32: nearest integer, halves to even; what the C code gets for |x| >= 2^22, Inf and NaN."""
    return ((x + _ROUNDER).bits(i32 * x.type.lanes) & 0x7FFFFF) - 0x400000


def nearest(x: Value) -> Value:
    """f32 of nearest_int(x), exact."""
    n = x.type.lanes
    mantissa = (x + _ROUNDER).bits(u32 * n) & 0x7FFFFF
    return (mantissa | 0x4B000000).bits(f32 * n) - _ROUNDER


def clamp(x: Value, low: int, high: int) -> Value:
    """x within low..high."""
    return minimum(maximum(x, low), high)


def inverse_or_zero(d: Value) -> tuple[Value, Value]:
    """(1 / d, where that is infinite), 0 for the inverse of zero and of what is too small."""
    inverse = 1.0 / d
    overflows = absolute(inverse).eq(float("inf")) & d.ne(0.0)
    return select(overflows | d.eq(0.0), 0.0, inverse), overflows


def round_away(x: Value) -> Value:
    """i32: nearest integer, halves away from zero; |x| < 2^23."""
    n = x.type.lanes
    just_below_half = x.bits(u32 * n) & 0x80000000 | 0x3EFFFFFF
    return (x + just_below_half.bits(f32 * n)).to(i32)


def total(x: Callable[[Value], Value], n: int) -> Value:
    """x(0) + x(1) + ... + x(n - 1), from the left."""
    sum = var(zeros(lanes()))
    for i in loop(n):
        sum += x(i)
    return sum.value


def sum_squares(x: Tile, n: int) -> Value:
    """Sum of the first n squares."""
    return total(lambda i: x[i] * x[i], n)


def weigh(w: Tile, x: Tile, n: int, square: Value) -> None:
    """Turn importance w into the importance of a weight: w * sqrt(square + x^2)."""
    for i in loop(n):
        w[i] = w[i] * sqrt(square + x[i] * x[i])


def square_weights(w: Tile, x: Tile, n: int) -> None:
    """Importance by square, where nothing else is said."""
    for i in loop(n):
        w[i] = x[i] * x[i]


def magnitude_weights(w: Tile, x: Tile, n: int) -> None:
    """Importance by magnitude, in Q2_K."""
    for i in loop(n):
        w[i] = absolute(x[i])


def rms_weights(w: Tile, x: Tile, n: int) -> None:
    """Importance by magnitude + root mean square, in Q4_K and Q5_K."""
    rms = sqrt(sum_squares(x, n) / n)
    for i in loop(n):
        w[i] = rms + absolute(x[i])


def largest(x: Tile, n: int) -> tuple[Value, Value]:
    """(largest magnitude, the first weight that has it)."""
    amax, signed = var(zeros(lanes())), var(zeros(lanes()))
    for i in loop(n):
        magnitude = absolute(x[i])
        more = magnitude > amax
        signed.set(select(more, x[i], signed))
        amax.set(select(more, magnitude, amax))
    return amax.value, signed.value


class Grid(NamedTuple):
    """Candidates of an affine search: inverse scale (top + start + step * i) / range, i <= last."""

    start: float
    step: float
    last: int
    absolute: bool = False  # minimize the absolute error, not the squared one

    def numerators(self, top: int) -> list[float]:
        """As the C code computes them, in f32."""
        steps = range(self.last + 1)
        return [float(_F(self.start) + _F(self.step) * _F(i) + _F(top)) for i in steps]


IMPORTANCE_GRID = Grid(-0.9, 0.05, 36)


class Affine(NamedTuple):
    """w = scale * code + low. The search coded by nearest(inverse * (w - origin)), limited."""

    scale: Value
    low: Value
    inverse: Value
    origin: Value


def affine(x: Tile, w: Tile, n: int, top: int, grid: Grid) -> Affine:
    """Scale and minimum (<= 0) of codes 0..top for n weights x of importance w [qkx2, qkx3]."""
    lowest, highest = var(x[0]), var(x[0])
    sum_w, sum_x = var(w[0]), var(w[0] * x[0])
    for i in loop(1, n):
        lowest.set(minimum(x[i], lowest))
        highest.set(maximum(x[i], highest))
        sum_w += w[i]
        sum_x += w[i] * x[i]

    def code(i: Value, inverse: Value, origin: Value) -> Value:
        return clamp(nearest(inverse * (x[i] - origin)), 0, top)

    def error(i: Value, code: Value, scale: Value, low: Value) -> Value:
        difference = scale * code + low - x[i]
        return w[i] * (absolute(difference) if grid.absolute else difference * difference)

    low = var(select(lowest > 0.0, 0.0, lowest))
    inverse, origin = var(top / (highest - low)), var(low)
    scale = var(1.0 / inverse)
    best = var(total(lambda i: error(i, code(i, inverse, origin), scale, low), n))
    codes, numerators = Tile(n), grid.numerators(top)
    candidates = table(f32, numerators)
    for c in loop(len(numerators)):
        start = low.value
        tried = load(f32, candidates + c * 4) / (highest - start)
        sum_l, sum_l2, sum_xl = (var(zeros(lanes())) for _ in range(3))
        for i in loop(n):
            codes[i] = code(i, tried, start)
            weighted = w[i] * codes[i]
            sum_l += weighted
            sum_l2 += weighted * codes[i]
            sum_xl += weighted * x[i]
        determinant = sum_w * sum_l2 - sum_l * sum_l
        new_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant
        new_low = (sum_l2 * sum_x - sum_l * sum_xl) / determinant
        new_scale = select(new_low > 0.0, sum_xl / sum_l2, new_scale)
        new_low = select(new_low > 0.0, 0.0, new_low)
        found = var(zeros(lanes()))
        for i in loop(n):
            found += error(i, codes[i], new_scale, new_low)
        better = (determinant > 0.0) & (found < best)
        pairs = (best, found), (scale, new_scale), (low, new_low), (inverse, tried), (origin, start)
        for kept, new in pairs:
            kept.set(select(better, new, kept))
    return Affine(scale.value, low.value, inverse.value, origin.value)


class Ratio(NamedTuple):
    """w = scale * level; the level found was that of inverse * w. Both 0 for a zero block."""

    scale: Value
    inverse: Value


def symmetric(x: Tile, w: Tile, n: int, top: int) -> Ratio:
    """Scale of codes -top..top-1 for n weights x of importance w [qx].

    The first weight of largest magnitude is to become -top or nearly so.
    """
    amax, signed = largest(x, n)
    steps = [float(-(_F(top) + _F(0.1) * _F(i))) for i in range(-9, 10) if i]

    def level(y: Value) -> Value:
        return clamp(target().round_even(y), -top, top - 1)  # |y| <= top + 0.9

    wx = Tile(n)
    for i in loop(n):
        wx[i] = w[i] * x[i]

    def terms(i: Value, code: Value) -> tuple[Value, Value]:
        return wx[i] * code, w[i] * code * code

    found = best_ratio(x, n, level, terms, -float(top) / signed, steps, signed)
    some = amax >= SMALLEST_GROUP
    return Ratio(select(some, found.scale, 0.0), select(some, found.inverse, 0.0))


def best_ratio(
    x: Tile, n: int, level: Callable[[Value], Value],
    terms: Callable[[Value, Value], tuple[Value, Value]], start: Value, numerators: list[float],
    signed: Value,
) -> Ratio:  # fmt: skip
    """Least squares scale of the best inverse scale: `start` or one of numerators / signed.

    `level(y)` is the f32 level that stands for y, a weight times its inverse scale; `terms(i,
    level)` are w * x * level and w * level^2 of weight i, in the order of the C code. The scale is
    NaN where the sums overflow.
    """

    def sums(inverse: Value) -> tuple[Value, Value]:
        sum_lx, sum_l2 = var(zeros(lanes())), var(zeros(lanes()))
        for i in loop(n):
            lx, l2 = terms(i, level(inverse * x[i]))
            sum_lx += lx
            sum_l2 += l2
        return sum_lx.value, sum_l2.value

    sum_lx, sum_l2 = sums(start)
    inverse = var(start)
    scale = var(select(sum_l2.ne(0.0), sum_lx / sum_l2, 0.0))
    best = var(scale * sum_lx)
    candidates = table(f32, numerators)
    for c in loop(len(numerators)):
        tried = load(f32, candidates + c * 4) / signed
        sum_lx, sum_l2 = sums(tried)
        better = (sum_l2 > 0.0) & (sum_lx * sum_lx > best * sum_l2)
        scale.set(select(better, sum_lx / sum_l2, scale))
        best.set(select(better, scale * sum_lx, best))
        inverse.set(select(better, tried, inverse))
    return Ratio(scale.value, inverse.value)


def positive(x: Tile, w: Tile, n: int, top: int) -> tuple[Value, Tile]:
    """(scale, codes i32 0..top) of n numbers x >= 0 of importance w [qp].

    Codes are bytes in the C code: that of a negative number wraps, here too.
    """
    high = var(zeros(lanes()))
    for i in loop(n):
        high.set(maximum(high, x[i]))
    start = top / high

    def error(inverse: Value, code: Callable[[Value], Value]) -> Value:
        scale = 1.0 / inverse

        def term(i: Value) -> Value:
            difference = x[i] - scale * code(inverse * x[i]).to(f32)
            return w[i] * difference * difference

        return total(term, n)

    inverse, best = var(start), var(error(start, lambda y: nearest_int(y) & 255))
    numerators = [float(_F(0.1) * _F(i) + _F(top)) for i in range(-4, 5) if i]
    candidates = table(f32, numerators)
    for c in loop(len(numerators)):
        tried = load(f32, candidates + c * 4) / high
        found = error(tried, lambda y: minimum(nearest_int(y), top))
        better = found < best
        best.set(select(better, found, best))
        inverse.set(select(better, tried, inverse))

    fit = _Fit(x, w, Tile(n), n)
    for i in loop(n):
        fit.start(i, minimum(nearest_int(inverse * x[i]), top))
        fit.codes[i] = _wrapped(fit.codes[i])
    _descend([fit], lambda y: minimum(nearest_int(y), top), bytes=True)
    some = high >= SMALLEST_GROUP
    codes = Tile(n, i32)
    for i in loop(n):
        codes[i] = select(some, fit.codes[i].to(i32), 0)
    return select(some, fit.scale(), 0.0), codes


def descended(parts: Sequence[Tile], n: int, top: int) -> list[tuple[Value, Tile]]:
    """(scale, codes f32) of each part, n weights of importance x^2 [q3].

    Codes are -top..top-1; -top with scale 0 in a zero block. Several independent parts at once
    keep the processor busy: every step of a descent waits for the one before.
    """
    fits, starts = [], []
    for x in parts:
        w = Tile(n)
        for i in loop(n):
            w[i] = x[i] * x[i]
        fits.append(_Fit(x, w, Tile(n), n))
        starts.append(largest(x, n))

    def limited(y: Value) -> Value:
        return clamp(nearest_int(y), -top, top - 1)

    for i in loop(n):
        for fit, (_, signed) in zip(fits, starts, strict=True):
            fit.start(i, limited(-float(top) / signed * fit.x[i]))
    _descend(fits, limited)
    found = []
    for fit, (amax, _) in zip(fits, starts, strict=True):
        some = amax >= SMALLEST_GROUP
        for i in loop(n):
            fit.codes[i] = select(some, fit.codes[i], -float(top))
        found.append((select(some, fit.scale(), 0.0), fit.codes))
    return found


class _Fit:
    """x = scale * codes by least squares of importance w; the sums follow the codes."""

    def __init__(self, x: Tile, w: Tile, codes: Tile, n: int) -> None:
        self.x, self.w, self.codes, self.n = x, w, codes, n
        self.lx, self.l2 = var(zeros(lanes())), var(zeros(lanes()))

    def _terms(self, i: Value, code: Value) -> tuple[Value, Value]:
        return self.w[i] * self.x[i] * code, self.w[i] * code * code

    def start(self, i: Value, code: Value) -> None:
        """Set code i (i32) for the first time."""
        self.codes[i] = code.to(f32)
        lx, l2 = self._terms(i, self.codes[i])
        self.lx += lx
        self.l2 += l2

    def improve(self, i: Value, nearest: Callable[[Value], Value], bytes: bool) -> Value:
        """Set code i to the best for the scale the others give; bit: whether that was better."""
        old = self.codes[i]
        lx, l2 = self._terms(i, old)
        lx, l2 = self.lx - lx, self.l2 - l2
        new = nearest(self.x[i] * l2 / lx).to(f32)
        more_lx, more_l2 = self._terms(i, new)
        new_lx, new_l2 = lx + more_lx, l2 + more_l2
        usable = (l2 if bytes else new_l2) > 0.0
        better = new_lx * new_lx * self.l2 > self.lx * self.lx * new_l2
        better = better & usable & (lx > 0.0) & new.ne(old)
        self.codes[i] = select(better, _wrapped(new) if bytes else new, old)
        self.lx.set(select(better, new_lx, self.lx))
        self.l2.set(select(better, new_l2, self.l2))
        return better

    def scale(self) -> Value:
        """The least squares scale."""
        return select(self.l2 > 0.0, self.lx / self.l2, 0.0)


def _descend(fits: list[_Fit], nearest: Callable[[Value], Value], bytes: bool = False) -> None:
    """Improve code after code until a sweep changes none, in any lane; at most SWEEPS sweeps."""
    one = const(lanes(i32), 1)
    sweep, changed = var(const(i32, 0)), var(const(i32, 1))

    def unfinished() -> Value:
        return (sweep < SWEEPS) & (changed > 0)

    for _ in repeat_while(unfinished):
        any_better = var(zeros(lanes(i32)))
        for i in loop(fits[0].n):
            for fit in fits:
                better = fit.improve(i, nearest, bytes)
                any_better.set(select(better, one, any_better))
        changed.set(hmax(any_better.value))
        sweep += 1


def _wrapped(code: Value) -> Value:
    """A code as the byte the C code keeps it in."""
    return (code.to(i32) & 255).to(f32)
