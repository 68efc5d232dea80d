"""Fitting scales to weights of given importance: searches over candidates, then least squares.

Arrays are by lanes as in `ggq.convert.methods._kernels`: [row groups, columns, lanes]. The weight
of a level is step * level + offset; for super-blocks step = d * scale, offset = dmin * minimum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

from ggq.convert.grids import Grid
from ggq.convert.methods._kernels import Lane, nearest_of, none
from ggq.jit import Kernel
from ggq.jit.isa import target
from ggq.jit.lang import (
    Value,
    Var,
    absolute,
    const,
    f32,
    fma,
    i64,
    load,
    loop,
    maximum,
    minimum,
    rint,
    select,
    table,
    var,
)

Nearest = Callable[[Value], Value]


class Fit(NamedTuple):
    """One step and offset for some weights, and their weighted squared error."""

    step: Value
    offset: Value
    error: Value


class Weights(NamedTuple):
    """`n` weights x of importance h, whose levels are found by `nearest`."""

    x: Lane
    h: Lane
    n: int
    nearest: Nearest

    def level(self, i: Value, step: Value, offset: Value) -> Value:
        """The best level of weight i; 0 or the nearest to it where the step is 0."""
        ideal = select(step.eq(0.0), 0.0, (self.x[i] - offset) / step)
        return self.nearest(ideal)

    def error(self, step: Value, offset: Value) -> Value:
        """Of the best levels."""
        total = var(none())
        for i in loop(self.n):
            lost = self.x[i] - fma(step, self.level(i, step, offset), offset)
            total += self.h[i] * lost * lost
        return total.value

    def refit(self, step: Value, offset: Value, affine: bool) -> tuple[Value, Value]:
        """(step, offset) of least squares for the levels that these give; as they are if none."""
        sums = [var(none()) for _ in range(5)]
        hh, hl, hll, hx, hxl = sums
        for i in loop(self.n):
            h, x, level = self.h[i], self.x[i], self.level(i, step, offset)
            weighted = h * level
            terms = h, weighted, weighted * level, h * x, weighted * x
            for sum, term in zip(sums, terms, strict=True):
                sum += term
        if not affine:
            return select(hll > 0.0, hxl / hll, step), offset
        determinant = hh * hll - hl * hl
        some = determinant > 1e-6 * hh * hll
        new_step = select(some, (hh * hxl - hl * hx) / determinant, step)
        return new_step, select(some, (hll * hx - hl * hxl) / determinant, offset)


def better(new: Fit, kept: list[Var]) -> None:
    """Keep the new fit in the lanes where its error is smaller."""
    step, offset, error = kept
    wins = new.error < error
    step.set(select(wins, new.step, step))
    offset.set(select(wins, new.offset, offset))
    error.set(select(wins, new.error, error))


def half(x: Value) -> Value:
    """The number as a half precision scale would hold it."""
    return target().half_to_single(target().single_to_half(x))


@cache
def group_kernel(grid: Grid, stored: bool) -> Kernel:
    """Kernel(x, h, steps, offsets, errors, count).

    Fits `count` groups of weights, x and h f32[count, group, lanes], starting from steps and
    offsets f32[count, lanes], which it improves. `stored`: they must be half precision numbers.
    Tried are steps that bring the largest weight, or the range of all, near either end of the
    levels, each followed by two rounds of least squares.
    """

    def body(x: Value, h: Value, steps: Value, offsets: Value, errors: Value, count: Value) -> None:
        n = grid.group
        nearest = nearest_of(None if grid.is_even else grid.levels, *grid_ends(grid))
        for g in loop(count):
            size = n * target().nbytes
            weights = Weights(Lane(x + g * size), Lane(h + g * size), n, nearest)
            step, offset = Lane(steps), Lane(offsets)
            start = Fit(step[g], offset[g], weights.error(step[g], offset[g]))
            kept = [var(each) for each in start]
            candidates = _affine_starts if grid.has_minimum else _signed_starts
            for first, low in candidates(grid, weights):
                s, o = var(first), var(low)
                for _ in loop(2):
                    new_s, new_o = weights.refit(s, o, grid.has_minimum)
                    s.set(new_s)
                    o.set(new_o)
                if stored:
                    s.set(half(s.value))
                    o.set(half(o.value))
                better(Fit(s.value, o.value, weights.error(s.value, o.value)), kept)
            step[g], offset[g] = kept[0].value, kept[1].value
            Lane(errors)[g] = kept[2].value

    return Kernel(f"methods.group.{grid.type.name}{'.stored' if stored else ''}", body, 6)


def grid_ends(grid: Grid) -> tuple[Value, Value]:
    """The first and last level as scalars."""
    return const(i64, grid.levels[0]), const(i64, grid.levels[-1])


def _affine_starts(grid: Grid, weights: Weights) -> Iterator[tuple[Value, Value]]:
    """(step, offset): levels spread over all of the range of the weights, and less, and more."""
    top = grid.levels[-1]
    lowest, highest = var(weights.x[0]), var(weights.x[0])
    for i in loop(1, weights.n):
        lowest.set(minimum(weights.x[i], lowest))
        highest.set(maximum(weights.x[i], highest))
    low, range_ = lowest.value, highest - lowest
    spread = [0.5 * k for k in range(-2, 4)] if top > 3 else [0.2 * k for k in range(-3, 6)]
    factors = table(f32, [1 / (top + t) for t in spread])
    shifts = table(f32, [0.0, 0.5, 1.0])
    for a in loop(len(spread)):
        step = range_ * load(f32, factors + a * 4)
        for b in loop(3):
            yield step, low + step * load(f32, shifts + b * 4)


def _signed_starts(grid: Grid, weights: Weights) -> Iterator[tuple[Value, Value]]:
    """(step, 0): the largest weight is brought near the first level, and near the last."""
    signed, amax = var(none()), var(none())
    for i in loop(weights.n):
        magnitude = absolute(weights.x[i])
        signed.set(select(magnitude > amax, weights.x[i], signed))
        amax.set(maximum(magnitude, amax))
    ends = [float(grid.levels[0]), float(grid.levels[-1])]
    width = max(1.0, 0.12 * (ends[1] - ends[0]) / 2)
    tries = [end * (1 + k / 6 * width / abs(end)) for end in ends for k in range(-6, 7)]
    tries = [t for t in tries if abs(t) > 0.3]
    inverse = table(f32, [1 / t for t in tries])
    for c in loop(len(tries)):
        yield signed * load(f32, inverse + c * 4), none()


@cache
def super_kernel(grid: Grid) -> Kernel:
    """Kernel(x, h, d, dmin, scales, minima, errors, count, rounds).

    Improves `count` super-blocks, x and h f32[count, weights, lanes]: in every round the integer
    scale and minimum of each group are searched near where they stand, then d and dmin f32[count,
    lanes] are fitted together and rounded to half precision where that is better. scales and
    minima f32[count, groups, lanes]. errors f32[count, lanes]: of the best levels in the end.
    """

    def body(
        x: Value, h: Value, d: Value, dmin: Value, scales: Value, minima: Value, errors: Value,
        count: Value, rounds: Value,
    ) -> None:  # fmt: skip
        nearest = nearest_of(None if grid.is_even else grid.levels, *grid_ends(grid))
        n, groups = grid.group, grid.type.weights // grid.group
        for s in loop(count):
            at = s * (groups * n) * target().nbytes
            all_x, all_h = Lane(x + at), Lane(h + at)
            scale, minimum_ = Lane(scales).part(s * groups), Lane(minima).part(s * groups)
            for _ in loop(rounds):
                for j in loop(groups):
                    part = Weights(all_x.part(j * n), all_h.part(j * n), n, nearest)
                    _search_group(grid, part, Lane(d)[s], Lane(dmin)[s], scale, minimum_, j)
                _fit_super(grid, all_x, all_h, nearest, Lane(d), Lane(dmin), scale, minimum_, s)
            total = var(none())
            for j in loop(groups):
                part = Weights(all_x.part(j * n), all_h.part(j * n), n, nearest)
                total += part.error(Lane(d)[s] * scale[j], Lane(dmin)[s] * minimum_[j])
            Lane(errors)[s] = total.value

    return Kernel(f"methods.super.{grid.type.name}", body, 9)


def _search_group(
    grid: Grid, part: Weights, d: Value, dmin: Value, scale: Lane, minimum_: Lane, j: Value
) -> None:
    low, high = (float(end) for end in grid.scale_range)
    now_scale, now_minimum = scale[j], minimum_[j]
    start = Fit(now_scale, now_minimum, part.error(d * now_scale, dmin * now_minimum))
    kept = [var(each) for each in start]
    moves = [1.0] * 6 + ([-1.0] * 3 if low < 0 else [])
    signs = table(f32, moves)
    shifts = table(f32, [-3.0, -2.0, -1.0, 1.0, 2.0, 3.0, -1.0, 0.0, 1.0][: len(moves)])
    for c in loop(len(moves)):
        tried = now_scale * load(f32, signs + c * 4) + load(f32, shifts + c * 4)
        tried = maximum(minimum(tried, high), low)
        drop = var(now_minimum)
        if grid.has_minimum:
            for _ in loop(2):
                drop.set(_best_minimum(grid, part, d * tried, dmin, drop.value))
        error = part.error(d * tried, dmin * drop.value)
        better(Fit(tried, drop.value, error), kept)
    scale[j], minimum_[j] = kept[0].value, kept[1].value


def _best_minimum(grid: Grid, part: Weights, step: Value, dmin: Value, now: Value) -> Value:
    """The integer minimum of least squares for the levels that `now` gives."""
    low, high = (float(end) for end in grid.minimum_range)
    wanted, total = var(none()), var(none())
    for i in loop(part.n):
        level = part.level(i, step, dmin * now)
        wanted += part.h[i] * (part.x[i] - step * level)
        total += part.h[i]
    ideal = wanted / (total * dmin)
    usable = (total > 0.0) & dmin.ne(0.0)
    return select(usable, maximum(minimum(rint(ideal), high), low), now)


def _fit_super(
    grid: Grid, x: Lane, h: Lane, nearest: Nearest, d: Lane, dmin: Lane, scale: Lane,
    minimum_: Lane, s: Value,
) -> None:  # fmt: skip
    """d and dmin of least squares, if rounded they serve the levels better."""
    n, groups = grid.group, grid.type.weights // grid.group
    sums = [var(none()) for _ in range(5)]
    old_d, old_m = d[s], dmin[s]
    for j in loop(groups):
        part = Weights(x.part(j * n), h.part(j * n), n, nearest)
        sc, mn = scale[j], minimum_[j]
        for i in loop(n):
            a = sc * part.level(i, old_d * sc, old_m * mn)
            ha, hm = part.h[i] * a, part.h[i] * mn
            terms = ha * a, ha * mn, hm * mn, ha * part.x[i], hm * part.x[i]
            for sum, term in zip(sums, terms, strict=True):
                sum += term
    aa, am, mm, ax, mx = (sum.value for sum in sums)
    determinant = aa * mm - am * am
    joint = determinant > 1e-6 * aa * mm
    one = select(aa > 0.0, (ax - am * old_m) / aa, old_d)
    new_d = half(select(joint, (ax * mm - mx * am) / determinant, one))
    new_m = half(select(joint, (mx * aa - ax * am) / determinant, old_m))

    def gain(d: Value, m: Value) -> Value:
        return d * (2.0 * ax - d * aa - 2.0 * am * m) + m * (2.0 * mx - m * mm)

    wins = gain(new_d, new_m) > gain(old_d, old_m)
    d[s], dmin[s] = select(wins, new_d, old_d), select(wins, new_m, old_m)
