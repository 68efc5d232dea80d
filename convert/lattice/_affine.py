"""Grids with minima: w = d * scale * level + dmin * minimum."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ggq.convert.grids import Grid, Parts
from ggq.convert.lattice._halves import TOLERANCE, half_candidates

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Index = npt.NDArray[np.intp]

AT_ONCE = 512


def affine_parts(grid: Grid, x: F32) -> Parts | None:
    """Scales, minima and levels that decode to `x` f32[R, C], None where there are none."""
    blocks = x.reshape(-1, grid.type.weights).astype(np.float64)
    found = _Found(grid, blocks)
    for first in range(0, len(blocks), AT_ONCE):
        which = np.arange(first, min(first + AT_ONCE, len(blocks)))
        for sign in (1, -1):  # a negative d turns a block round
            which = found.solve(which, sign)
        if len(which):
            return None
    rows = len(x)
    return Parts(
        found.d.astype(np.float16).reshape(rows, -1),
        found.dmin.astype(np.float16).reshape(rows, -1),
        found.scales.astype(np.int16).reshape(rows, -1),
        found.minima.astype(np.int16).reshape(rows, -1),
        found.levels.astype(np.int8).reshape(rows, -1),
    )


class _Steps(NamedTuple):
    """Blocks, turned so that d > 0, for which `d` and `scales` f64[N], i64[N, groups] are supposed.

    `x` f32[N, groups, group]; `n` i64 likewise, the weights above the lowest in units of `d`;
    `free` i64[N, groups]: how far up the levels may move. `error` f64[N] bounds roundings to f32.
    """

    x: F32
    d: F64
    n: I64
    scales: I64
    free: I64
    low: F64
    error: F64

    def of(self, which: Index) -> _Steps:
        """Some of the blocks."""
        return _Steps(
            self.x[which],
            self.d[which],
            self.n[which],
            self.scales[which],
            self.free[which],
            self.low[which],
            self.error[which],
        )

    def decodes(self, row: Index, group: Index, dmin: F64, count: F64, shift: int) -> Bools:
        """Whether a minimum of `count` and a shift make groups f32[K, group] what they are."""
        f = np.float32
        scales = self.scales[row, group]
        levels = self.n[row, group] // np.maximum(scales, 1)[:, None] + shift
        steps, offsets = self.d[row].astype(f) * scales.astype(f), dmin.astype(f) * count.astype(f)
        decoded = steps[:, None] * levels.astype(f) + offsets[:, None]
        exact: Bools = (decoded == self.x[row, group]).all(1)
        return exact


class _Found:
    """The numbers of every block of f64[N, weights], as far as they are known."""

    def __init__(self, grid: Grid, blocks: F64) -> None:
        self.grid = grid
        groups = blocks.shape[1] // grid.group
        self.groups = blocks.reshape(len(blocks), groups, grid.group)
        self.d, self.dmin = np.zeros(len(blocks)), np.zeros(len(blocks))
        self.scales = np.full((len(blocks), groups), grid.scale_range[0], np.int64)
        self.minima = np.full((len(blocks), groups), grid.minimum_range[0], np.int64)
        self.levels = np.zeros(self.groups.shape, np.int64)
        self.span = grid.levels[-1] - grid.levels[0]

    def solve(self, which: Index, sign: int) -> Index:
        """Those of the blocks that are not on the grid with a `d` of this sign."""
        groups = sign * self.groups[which]
        above = groups - groups.min(2)[..., None]
        error = 4 * TOLERANCE * abs(groups).max((1, 2))
        left = np.ones(len(which), bool)
        flat = (above == 0).all((1, 2))
        for d in [np.where(flat, 0.0, -1.0), *self._d(above, error)]:
            at = np.flatnonzero(left & ((d > 0) | (flat & (d == 0))))
            if not len(at):
                continue
            unit = np.where(d[at] > 0, d[at], 1)[:, None, None]
            n = np.rint(above[at] / unit).astype(np.int64)
            whole = (abs(n * unit - above[at]) <= error[at, None, None]).all((1, 2))
            at, n = at[whole], n[whole]
            for scales in self._scales(n):
                some = np.flatnonzero((scales >= 0).all(1) & left[at])
                if not len(some):
                    continue
                tried = at[some]
                steps = self._steps(groups[tried], d[tried], n[some], scales[some], error[tried])
                left[tried[self._place(which[tried], sign, steps)]] = False
        return which[left]

    def _d(self, above: F64, error: F64) -> list[F64]:
        """Candidates for `d` of each block, by the group of the widest range."""
        low, high = self.grid.scale_range
        products = sorted(
            {s * v for s in range(max(1, low), high + 1) for v in range(1, self.span + 1)},
            reverse=True,
        )
        estimates = above.max((1, 2))[:, None] / np.array(products, np.float64)
        return half_candidates(estimates, error[:, None] / np.array(products, np.float64))

    def _scales(self, n: I64) -> list[I64]:
        """Scales i64[N, groups] that make n levels: the least, the greatest; -1: there is none."""
        low, high = self.grid.scale_range
        top, divisor = n.max(-1), np.gcd.reduce(n, axis=-1)
        least = np.where(top > 0, -1, low)
        greatest = least.copy()
        for scale in range(max(1, low), high + 1):
            fits = (top > 0) & (divisor % scale == 0) & (top <= scale * self.span)
            greatest[fits] = scale
            least[fits & (least < 0)] = scale
        return [least, greatest]

    def _steps(self, groups: F64, d: F64, n: I64, scales: I64, error: F64) -> _Steps:
        top = n.max(2)
        free = np.where(top > 0, self.span - top // np.maximum(scales, 1), 0)
        return _Steps(groups.astype(np.float32), d, n, scales, free, groups.min(2), error)

    def _place(self, which: Index, sign: int, steps: _Steps) -> Index:
        """Index of the blocks for whose lowest weights there are minima; these are kept."""
        done = np.zeros(len(which), bool)
        # A minimum is told from one group where it is not 0, best from one that leaves no freedom.
        silent = abs(steps.low) <= steps.error[:, None]
        order = np.argsort(steps.free + 0.5 * silent, axis=1, kind="stable")
        for reference in order.T:
            left = np.flatnonzero(~done)
            if not len(left):
                break
            for some, dmin in self._dmin(reference[left], steps.of(left)):
                fresh = ~done[left[some]]
                at, dmin = left[some[fresh]], dmin[fresh]
                if not len(at):
                    continue
                good, minima, shifts = self._minima(steps.of(at), dmin)
                self._keep(which[at[good]], sign, steps.of(at[good]), dmin[good], minima, shifts)
                done[at[good]] = True
        return np.flatnonzero(done)

    def _dmin(self, reference: Index, steps: _Steps) -> Iterator[tuple[Index, F64]]:
        """(index of blocks, what their dmin may be by one group) for every possibility."""
        first, last = self.grid.minimum_range
        counts = np.arange(max(1, first), last + 1, dtype=np.float64)[::-1]
        rows = np.arange(len(reference))
        low, free = steps.low[rows, reference], steps.free[rows, reference]
        step = steps.d * steps.scales[rows, reference]
        for shift in range(int(free.max(initial=-1)) + 1):
            offset = np.where(shift <= free, low - step * shift, 0)
            silent = (abs(offset) <= steps.error) & (shift <= free)
            yield np.flatnonzero(silent), np.zeros(int(silent.sum()))
            for dmin in half_candidates(offset[:, None] / counts, steps.error[:, None] / counts):
                some = np.flatnonzero(dmin)
                yield some, dmin[some]

    def _minima(self, steps: _Steps, dmin: F64) -> tuple[Index, I64, I64]:
        """(index of the blocks where every group has a minimum, the minima, the levels' shifts)"""
        first, last = self.grid.minimum_range
        minima = np.full(steps.scales.shape, -1, np.int64)
        shifts = np.zeros(steps.scales.shape, np.int64)
        for shift in range(int(steps.free.max(initial=-1)) + 1):
            offset = steps.low - steps.d[:, None] * steps.scales * shift
            count = np.rint(offset / np.where(dmin == 0, 1, dmin)[:, None])
            count = np.clip(count, first, last)
            close = abs(count * dmin[:, None] - offset) <= steps.error[:, None]
            row, group = np.nonzero(close & (shift <= steps.free) & (minima < 0))
            exact = steps.decodes(row, group, dmin[row], count[row, group], shift)
            row, group = row[exact], group[exact]
            minima[row, group], shifts[row, group] = count[row, group].astype(np.int64), shift
        good = np.flatnonzero((minima >= 0).all(1))
        return good, minima[good], shifts[good]

    def _keep(
        self, which: Index, sign: int, steps: _Steps, dmin: F64, minima: I64, shifts: I64
    ) -> None:
        self.d[which], self.dmin[which] = sign * steps.d, sign * dmin
        self.scales[which], self.minima[which] = steps.scales, minima
        levels = steps.n // np.maximum(steps.scales, 1)[..., None]
        self.levels[which] = levels + shifts[..., None]
