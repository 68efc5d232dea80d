"""Choosing codebook words against a full Hessian, eight weights at a time, a row in each SIMD lane.

A unit of eight weights becomes x = step * sign * level of one word or two; with all else given it
costs x A x^T - 2 x u^T, A f32[8, 8] the same in all rows. All words are tried with the signs given,
then signs are turned with the words given, alternately (block form of LDLQ, arXiv 2307.13304).
Arrays are by lanes as in `ggq.convert.methods._kernels`.
"""

from __future__ import annotations

from functools import cache
from itertools import combinations, combinations_with_replacement
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ggq.convert.grids import WordGrid
from ggq.convert.methods._kernels import EIGHT, Lane, add_row, coefficient, none, spread
from ggq.jit import Kernel
from ggq.jit.isa import target
from ggq.jit.lang import (
    Value,
    const,
    f32,
    fma,
    gather,
    i32,
    i64,
    load,
    loop,
    scratch,
    select,
    splat,
    store,
    var,
)

ROUNDS = 2  # of words, then signs
_PAIRS = list(combinations(range(EIGHT), 2))


def word_table(grid: WordGrid) -> npt.NDArray[np.float32]:
    """f32[words, products + dims]: of each word the products of any two levels, and the levels."""
    levels = grid.table()
    pairs = combinations_with_replacement(range(grid.dims), 2)
    products = [levels[:, i] * levels[:, j] for i, j in pairs]
    return np.ascontiguousarray(np.concatenate([np.stack(products, 1), levels], 1))


class _Unit(NamedTuple):
    """Eight weights being chosen: `u`, `signs`, `levels` eight vectors each, `words` their words.

    `metric` is the address of A, `table` that of `word_table`.
    """

    grid: WordGrid
    metric: Value
    table: Value
    step: Value
    u: Lane
    signs: Lane
    levels: Lane
    words: Lane

    def a(self, i: int, j: int) -> Value:
        """A[i, j] in all lanes."""
        return coefficient(self.metric, EIGHT * i + j)

    def x(self, i: int) -> Value:
        """What weight i decodes to."""
        return self.step * self.signs[i] * self.levels[i]

    def residual(self, i: int) -> Value:
        """u - A x at i: half of how fast the cost falls with x[i]."""
        total = self.u[i]
        for j in range(EIGHT):
            total = total - self.a(i, j) * self.x(j)
        return total

    def cost(self) -> Value:
        """x A x^T - 2 x u^T"""
        total = none()
        for i in range(EIGHT):
            total = total - self.x(i) * (self.residual(i) + self.u[i])
        return total

    def choose(self) -> None:
        """Better words and signs, starting from the signs there are."""
        for _ in loop(ROUNDS):
            for first in range(0, EIGHT, self.grid.dims):
                self._best_word(first)
            if self.grid.even_signs:
                for _ in loop(2):
                    self._turn_pair()
            else:
                for i in range(EIGHT):
                    self._turn(i)

    def _best_word(self, first: int) -> None:
        dims = self.grid.dims
        here = range(first, first + dims)
        inverse = select(self.step.eq(0.0), 0.0, 1.0 / self.step)
        linear = []
        for i in here:
            wanted = self.u[i]
            for j in set(range(EIGHT)) - set(here):
                wanted = wanted - self.a(i, j) * self.x(j)
            linear.append(wanted * self.signs[i] * inverse * -2.0)
        factors = [
            self.a(i, j) * self.signs[i] * self.signs[j] * (1.0 if i == j else 2.0)
            for i, j in combinations_with_replacement(here, 2)
        ] + linear
        kept = Lane(scratch(len(factors) * target().nbytes))
        for k, factor in enumerate(factors):
            kept[k] = factor
        least, chosen = var(splat(const(f32, 3e38), target().lanes)), var(_integers(0))
        size = 4 * len(factors)
        for word in loop(len(self.grid.table())):
            row = self.table + word * size
            sums = [none()] * 4
            for k in range(len(factors)):
                sums[k % 4] = fma(kept[k], coefficient(row, k), sums[k % 4])
            cost = (sums[0] + sums[1]) + (sums[2] + sums[3])
            less = cost < least
            least.set(select(less, cost, least))
            chosen.set(select(less, splat(word.to(i32), target().lanes), chosen))
        store(self.words.address + first // dims * target().nbytes, chosen.value, 4)
        rows = chosen.to(i64) * size + splat(self.table, target().lanes)
        for k, i in enumerate(here):
            self.levels[i] = gather(f32, rows + (len(factors) - dims + k) * 4)

    def _gain(self, i: int) -> Value:
        """By how much the cost changes if sign i turns."""
        x = self.x(i)
        return 4.0 * x * (self.residual(i) + x * self.a(i, i))

    def _turn(self, i: int) -> None:
        self.signs[i] = select(self._gain(i) < 0.0, -self.signs[i], self.signs[i])

    def _turn_pair(self) -> None:
        """Turn the two signs that help most, where any do."""
        gains, x = [self._gain(i) for i in range(EIGHT)], [self.x(i) for i in range(EIGHT)]
        least, turned = none(), [_integers(0)] * EIGHT
        one = _integers(1)
        for i, j in _PAIRS:
            gain = gains[i] + gains[j] + 8.0 * self.a(i, j) * x[i] * x[j]
            less = gain < least
            least = select(less, gain, least)
            turned = [select(less, one * (k in (i, j)), t) for k, t in enumerate(turned)]
        for i in range(EIGHT):
            self.signs[i] = select(turned[i].ne(0), -self.signs[i], self.signs[i])


def _integers(x: int) -> Value:
    return const(i32 * target().lanes, x)


def _unit(grid: WordGrid, metric: Value, table: Value, step: Value) -> _Unit:
    lanes = [Lane(scratch(EIGHT * target().nbytes)) for _ in range(4)]
    return _Unit(grid, metric, table, step, *lanes)


def _keep(unit: _Unit, levels: Lane, words: Lane) -> None:
    """Write the signed levels and words of a unit to the arrays."""
    for i in range(EIGHT):
        levels[i] = unit.signs[i] * unit.levels[i]
    for k in range(EIGHT // unit.grid.dims):
        words[k] = unit.words[k]


@cache
def word_feedback_kernel(grid: WordGrid) -> Kernel:
    """Kernel(w, steps, levels, words, place, packed, metrics, table, columns, scales, groups).

    Unit after unit is chosen nearest to its weights plus the errors before times their
    coefficients. By lanes: w f32[groups, columns] becomes what was lost; levels likewise and words
    i32[groups, columns / dims] what was chosen; steps f32[groups, scales]; place i64[columns / 8]:
    the scale of a unit; packed as in `feedback_kernel`; metrics f32[columns / 8, 8, 8].
    """

    def body(
        w: Value, steps: Value, levels: Value, words: Value, place: Value, packed: Value,
        metrics: Value, table: Value, columns: Value, scales: Value, groups: Value,
    ) -> None:  # fmt: skip
        for group in loop(groups):
            lost, level = Lane(w).part(group * columns), Lane(levels).part(group * columns)
            word, step = (
                Lane(words).part(group * (columns // grid.dims)),
                Lane(steps).part(group * scales),
            )
            for first in loop(0, columns, EIGHT):
                rows = packed + first * columns * 4
                wanted = [var(lost[first + c]) for c in range(EIGHT)]
                for j in loop(first):
                    add_row(wanted, lost[j], rows + j * (4 * EIGHT))
                size = step[load(i64, place + first, 8)]
                unit = _unit(grid, metrics + first * (4 * EIGHT), table, size)
                for i in range(EIGHT):
                    total = none()
                    for c in range(EIGHT):
                        total = fma(wanted[c].value, unit.a(i, c), total)
                    unit.u[i] = total
                _start_signs(unit, [v.value for v in wanted])
                for i in range(EIGHT):
                    unit.levels[i] = none()
                unit.choose()
                for i in range(EIGHT):
                    lost[first + i] = lost[first + i] - unit.x(i)
                _keep(unit, level.part(first), word.part(first // grid.dims))

    return Kernel(f"methods.word_feedback.{grid.type.name}", body, 11)


def _start_signs(unit: _Unit, wanted: list[Value]) -> None:
    """Those of the weights; if an even number must be minus, the least of them may turn."""
    plus, minus = none() + 1.0, none() - 1.0
    for i, x in enumerate(wanted):
        unit.signs[i] = select((x < 0.0) ^ (unit.step < 0.0), minus, plus)
    if not unit.grid.even_signs:
        return
    product, least, chosen = plus, none() + 3e38, _integers(0)
    for i, x in enumerate(wanted):
        product = product * unit.signs[i]
        harm = select(x < 0.0, -x, x) * unit.a(i, i)
        less = harm < least
        least = select(less, harm, least)
        chosen = select(less, _integers(i), chosen)
    for i in range(EIGHT):
        turn = chosen.eq(i) & (product < 0.0)
        unit.signs[i] = select(turn, -unit.signs[i], unit.signs[i])


@cache
def word_descent_kernel(grid: WordGrid) -> Kernel:
    """Kernel(slopes, steps, levels, words, place, packed, metrics, table, columns, scales, groups,
    sweeps).

    Unit after unit is chosen anew for what the others leave, and kept where that costs less.
    slopes: E H, followed; packed: H; metrics: its diagonal blocks; the rest as above.
    """

    def body(
        slopes: Value, steps: Value, levels: Value, words: Value, place: Value, packed: Value,
        metrics: Value, table: Value, columns: Value, scales: Value, groups: Value, sweeps: Value,
    ) -> None:  # fmt: skip
        for group in loop(groups):
            slope, level = Lane(slopes).part(group * columns), Lane(levels).part(group * columns)
            word, step = (
                Lane(words).part(group * (columns // grid.dims)),
                Lane(steps).part(group * scales),
            )
            for _ in loop(sweeps):
                for first in loop(0, columns, EIGHT):
                    size = step[load(i64, place + first, 8)]
                    unit = _unit(grid, metrics + first * (4 * EIGHT), table, size)
                    old = [level[first + i] for i in range(EIGHT)]
                    for i in range(EIGHT):
                        total = -slope[first + i]
                        for j in range(EIGHT):
                            total = fma(size * old[j], unit.a(i, j), total)
                        unit.u[i] = total
                        unit.signs[i] = select(old[i] < 0.0, none() - 1.0, none() + 1.0)
                        unit.levels[i] = unit.signs[i] * old[i]
                    before = unit.cost()
                    unit.choose()
                    better = unit.cost() < before
                    moves = []
                    for i in range(EIGHT):
                        new = select(better, unit.signs[i] * unit.levels[i], old[i])
                        level[first + i] = new
                        moves.append(size * (new - old[i]))
                    kept = word.part(first // grid.dims)
                    for k in range(EIGHT // grid.dims):
                        kept[k] = select(better, unit.words[k], kept[k])
                    spread(slope, moves, packed + first * columns * 4, columns)

    return Kernel(f"methods.word_descent.{grid.type.name}", body, 12)
