"""Choosing levels against a full Hessian, a row of weights in each SIMD lane.

Arrays "by lanes" are [row groups, columns, lanes]: the numbers of one column of as many rows as a
vector has lanes lie together. Columns come in eights, so that a column's coefficients to eight
others are one line of memory (`packed`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise

from ggq.jit import Kernel
from ggq.jit.isa import target
from ggq.jit.lang import (
    Value,
    Var,
    bit,
    const,
    f32,
    fma,
    i64,
    lane_bits,
    load,
    loop,
    maximum,
    minimum,
    rint,
    select,
    splat,
    store,
    var,
    when,
    zeros,
)

EIGHT = 8
Nearest = Callable[[Value], Value]


def nearest_of(levels: Sequence[int] | None, low: Value, high: Value) -> Nearest:
    """The level nearest to a number: an integer low..high, or one of those given."""
    n = target().lanes
    if levels is None:
        first, last = (splat(x.to(f32), n) for x in (low, high))
        return lambda y: maximum(first, minimum(last, rint(y)))
    middles = [(a + b) / 2 for a, b in pairwise(levels)]

    def of_table(y: Value) -> Value:
        level = const(y.type, levels[0])
        for middle, value in zip(middles, levels[1:], strict=True):
            level = select(y >= middle, const(y.type, value), level)
        return level

    return of_table


class Lane:
    """A run of vectors in memory: element i holds number i of the row in each lane."""

    def __init__(self, address: Value) -> None:
        self.address = address

    def __getitem__(self, i: Value | int) -> Value:
        return load(f32 * target().lanes, self.address + i * target().nbytes, 4)

    def __setitem__(self, i: Value | int, x: Value) -> None:
        store(self.address + i * target().nbytes, x, 4)

    def part(self, start: Value | int) -> Lane:
        """The same memory from element `start` on."""
        return Lane(self.address + start * target().nbytes)


def none() -> Value:
    """A vector of zeros."""
    return zeros(f32 * target().lanes)


def coefficient(row: Value, k: int) -> Value:
    """Number k of a row of memory, in all lanes."""
    return splat(load(f32, row + 4 * k, 4), target().lanes)


@cache
def feedback_kernel(levels: tuple[int, ...] | None) -> Kernel:
    """Kernel(w, steps, offsets, chosen, place, packed, columns, scales, groups, low, high).

    Column after column takes the level nearest to its weight plus the errors of the columns before
    times their coefficients. By lanes: w f32[groups, columns] becomes what was lost, w - (step *
    level + offset); chosen likewise becomes the levels, left alone where the step is 0; steps and
    offsets f32[groups, scales]. `place` i64[columns]: the scale of a column. `packed`
    f32[columns / 8, columns, 8]: entry [b, j, c] is the coefficient from column j to 8 b + c.
    """

    def body(
        w: Value, steps: Value, offsets: Value, chosen: Value, place: Value, packed: Value,
        columns: Value, scales: Value, groups: Value, low: Value, high: Value,
    ) -> None:  # fmt: skip
        nearest = nearest_of(levels, low, high)
        for group in loop(groups):
            lost, level = Lane(w).part(group * columns), Lane(chosen).part(group * columns)
            step, offset = Lane(steps).part(group * scales), Lane(offsets).part(group * scales)
            for first in loop(0, columns, EIGHT):
                rows = packed + first * columns * 4
                wanted = [var(lost[first + c]) for c in range(EIGHT)]
                for j in loop(first):
                    add_row(wanted, lost[j], rows + j * (4 * EIGHT))
                for c in range(EIGHT):
                    k = first + c
                    at = load(i64, place + k * 8, 8)
                    s, o = step[at], offset[at]
                    new = select(s.eq(0.0), level[k], nearest((wanted[c] - o) / s))
                    level[k] = new
                    lost[k] = loss = lost[k] - fma(s, new, o)
                    add_row(wanted, loss, rows + k * (4 * EIGHT), c + 1)

    return Kernel(f"methods.feedback.{_label(levels)}", body, 11)


@cache
def descent_kernel(levels: tuple[int, ...] | None) -> Kernel:
    """Kernel(errors, steps, chosen, place, packed, inverse, columns, scales, groups, low, high,
    sweeps).

    Coordinate descent on tr(E H E^T): every level in turn becomes the best one the others leave.
    By lanes: errors f32[groups, columns], in: decoded minus wanted, E; out: the gradient E H.
    chosen f32[groups, columns], changed; steps f32[groups, scales]. packed: H as in
    `feedback_kernel`; inverse f32[columns]: of H's diagonal.
    """

    def body(
        errors: Value, steps: Value, chosen: Value, place: Value, packed: Value, inverse: Value,
        columns: Value, scales: Value, groups: Value, low: Value, high: Value, sweeps: Value,
    ) -> None:  # fmt: skip
        nearest = nearest_of(levels, low, high)
        for group in loop(groups):
            slope, level = Lane(errors).part(group * columns), Lane(chosen).part(group * columns)
            step = Lane(steps).part(group * scales)
            for _ in loop(sweeps):
                for first in loop(0, columns, EIGHT):
                    rows = packed + first * columns * 4
                    here = [var(slope[first + c]) for c in range(EIGHT)]
                    moves = []
                    some = const(bit * target().lanes, 0)
                    for c in range(EIGHT):
                        k = first + c
                        s, old = step[load(i64, place + k * 8, 8)], level[k]
                        ideal = old - here[c] * coefficient(inverse + k * 4, 0) / s
                        new = select(s.eq(0.0), old, nearest(ideal))
                        level[k] = new
                        moves.append(s * (new - old))
                        some = some | new.ne(old)
                        add_row(here, moves[c], rows + k * (4 * EIGHT), c + 1)
                    with when(lane_bits(some).ne(0)):
                        spread(slope, moves, rows, columns)

    return Kernel(f"methods.descent.{_label(levels)}", body, 12)


@cache
def gradient_kernel() -> Kernel:
    """Kernel(errors, slopes, packed, columns, groups): slopes = E H, by lanes, H packed."""

    def body(errors: Value, slopes: Value, packed: Value, columns: Value, groups: Value) -> None:
        for group in loop(groups):
            error, slope = Lane(errors).part(group * columns), Lane(slopes).part(group * columns)
            for k in loop(columns):
                slope[k] = none()
            for first in loop(0, columns, EIGHT):
                moves = [error[first + c] for c in range(EIGHT)]
                spread(slope, moves, packed + first * columns * 4, columns)

    return Kernel("methods.gradient", body, 5)


def add_row(sums: Sequence[Var], x: Value, row: Value, start: int = 0) -> None:
    """sums[c] += x * row[c], c >= start"""
    for c in range(start, EIGHT):
        sums[c].set(fma(x, coefficient(row, c), sums[c]))


def spread(slope: Lane, moves: list[Value], rows: Value, columns: Value) -> None:
    """Slope of every column += moves of eight times their coefficients to it."""
    for k in loop(columns):
        total = slope[k]
        for c, move in enumerate(moves):
            total = fma(move, coefficient(rows + k * (4 * EIGHT), c), total)
        slope[k] = total


def _label(levels: tuple[int, ...] | None) -> str:
    return "even" if levels is None else "table" + "_".join(str(x) for x in levels)
