"""Grids without minima: w = d * scale * level."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from ggq.convert.grids import Grid, Parts
from ggq.convert.lattice._halves import TOLERANCE, as_bfloat, half_candidates, nearest_half

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

AT_ONCE = 256
BFLOAT_RANGE = 8  # f16 values on either side: a BF16 is as wide as 8 of them, a quotient more


def symmetric_parts(grid: Grid, x: F32, bfloat: bool) -> Parts | None:
    """Scales and levels that decode to `x` f32[R, C], None where there are none."""
    weights = grid.type.weights
    blocks = x.reshape(-1, weights).astype(np.float64)
    found = _Found(grid, blocks)
    for first in range(0, len(blocks), AT_ONCE):
        some = slice(first, first + AT_ONCE)
        if not found.solve(np.arange(len(blocks))[some], bfloat):
            return None
    rows = len(x)
    return Parts(
        found.d.astype(np.float16).reshape(rows, -1),
        None,
        found.scales.astype(np.int16).reshape(rows, -1),
        None,
        found.levels.astype(np.int8).reshape(rows, -1),
    )


class _Found:
    """The numbers of every block of f64[N, weights], as far as they are known."""

    def __init__(self, grid: Grid, blocks: F64) -> None:
        self.grid = grid
        self.blocks = blocks
        groups = blocks.shape[1] // grid.group
        self.d = np.zeros(len(blocks))
        self.scales = np.full((len(blocks), groups), max(1, grid.scale_range[0]), np.int64)
        self.levels = np.full(blocks.shape, min(grid.levels, key=abs), np.int64)

    def solve(self, which: npt.NDArray[np.intp], bfloat: bool) -> bool:
        """Whether all of these blocks are on the grid."""
        blocks = self.blocks[which]
        largest = np.take_along_axis(blocks, abs(blocks).argmax(1)[:, None], 1)
        estimates = largest / np.array(_products(self.grid), np.float64)
        left = largest[:, 0] != 0
        errors = TOLERANCE * abs(estimates)
        for d in _halves_around(estimates) if bfloat else half_candidates(estimates, errors):
            at = np.flatnonzero(left & (d != 0))
            if len(at):
                left[at[self._split(which[at], d[at], bfloat)]] = False
        return not left.any()

    def _split(self, which: npt.NDArray[np.intp], d: F64, bfloat: bool) -> npt.NDArray[np.intp]:
        """Index of the blocks that are whole multiples of `d` with a scale and levels."""
        d = d[:, None, None]
        groups = self.blocks[which].reshape(len(d), self.scales.shape[1], self.grid.group)
        n = np.rint(groups / d).astype(np.int64)
        decoded = (n * d).astype(np.float32)
        whole = ((as_bfloat(decoded) if bfloat else decoded) == groups).all((1, 2))
        n, which, d, index = n[whole], which[whole], d[whole], np.flatnonzero(whole)
        scales = _scales(self.grid, n)
        known = ((scales != 0) | ~n.any(2)).all(1)
        n, scales = n[known], np.where(scales, scales, self.scales[which])[known]
        levels = (n // np.where(scales, scales, 1)[..., None]).reshape(len(n), self.blocks.shape[1])
        silent = np.repeat(~n.any(2), self.grid.group, axis=1)
        which = which[known]
        if 0 not in self.grid.levels:  # silence is a scale of 0 then
            scales = np.where(n.any(2), scales, 0)
            levels = np.where(silent, self.levels[which], levels)
        self.d[which], self.scales[which], self.levels[which] = d[known, 0, 0], scales, levels
        done: npt.NDArray[np.intp] = index[known]
        return done


def _products(grid: Grid) -> list[int]:
    """Every scale * level a block's largest weight may have, the largest first."""
    low, high = grid.scale_range
    scales = [scale for scale in range(low, high + 1) if scale]
    return sorted({s * v for s in scales for v in grid.levels if v}, key=abs, reverse=True)


def _halves_around(estimates: F64) -> Iterator[F64]:
    """Columns of f64[N, P] as f16 near them: what a BF16 weight leaves open."""
    for column in estimates.T:
        middle = nearest_half(column).astype(np.float16).view(np.int16)
        for distance in sorted(range(-BFLOAT_RANGE, BFLOAT_RANGE + 1), key=abs):
            near = (middle + np.int16(distance)).view(np.float16).astype(np.float64)
            yield np.where(np.isfinite(near), near, 0)


def _scales(grid: Grid, n: I64) -> I64:
    """i64[N, groups]: a scale that makes all of a group's n [N, groups, group] levels, or 0."""
    low, high = grid.scale_range
    table = np.array(grid.levels, np.int64)
    scales = np.zeros(n.shape[:2], np.int64)
    top, divisor = abs(n).max(-1), np.gcd.reduce(n, axis=-1)
    largest_level = int(abs(table).max())
    missing = top > 0
    for scale in sorted((s for s in range(low, high + 1) if s), key=abs):
        fits = missing & (divisor % scale == 0) & (top <= abs(scale) * largest_level)
        row, group = np.nonzero(fits)
        exact = np.isin(n[row, group] // scale, table).all(-1)
        row, group = row[exact], group[exact]
        scales[row, group] = scale
        missing[row, group] = False
    return scales
