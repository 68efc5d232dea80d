"""Half-quadratic quantization: scales and offsets without any data.

A few weights may be far off if the many are close: the errors' l_p norm is minimized, p < 1, by
giving large errors a slack of their own and fitting the rest by least squares (Badri and Shaji
2023, mobiusml.github.io/hqq_blog). The fit is that of `imatrix`; columns count alike, or as much as
is known of them.
"""

from __future__ import annotations

import numpy as np

from ggq.blocks import BlockType
from ggq.convert.grids import Grid, Parts, grid_of, word_grid_of
from ggq.convert.methods._base import F32, U8, Method, Needs, Prepared
from ggq.convert.methods._parallel import in_parallel
from ggq.convert.methods._scale_fit import fit, kernels, nearest_levels
from ggq.convert.methods.imatrix import fitted
from ggq.jit import prepare

ROUNDS = 1
NORM = 0.7
SHARPNESS = 4.0  # how dear slack is, errors counted in steps
_ROWS = 64


class Hqq(Method):
    """Least squares of all but the outliers, against the scales as they are stored."""

    name = "hqq"
    needs = Needs.NOTHING

    def covers(self, type: BlockType) -> bool:
        return grid_of(type) is not None or word_grid_of(type) is not None

    def quantize(self, w: F32, type: BlockType, prepared: Prepared, *, threads: int = 0) -> U8:
        grid, importance = grid_of(type), prepared.importance
        if importance is None:
            importance = np.ones(w.shape[1], np.float32)
        if grid is None:
            return fitted(w, type, importance, threads)
        start = type.quantize(w, importance, threads=threads)
        prepare(kernels(grid))
        out = np.empty_like(start)

        def rows(first: int) -> None:
            part = slice(first, first + _ROWS)
            h = np.broadcast_to(importance, w[part].shape)
            out[part] = grid.pack(_fitted(grid, w[part], h, grid.unpack(start[part])))

        in_parallel(rows, range(0, len(w), _ROWS), threads)
        return out


def _fitted(grid: Grid, w: F32, h: F32, parts: Parts) -> Parts:
    parts = fit(grid, w, h, parts)
    for _ in range(ROUNDS):
        parts = fit(grid, w - _slack(grid, w, parts), h, parts)
    return parts._replace(levels=nearest_levels(grid, w, parts))


def _slack(grid: Grid, w: F32, parts: Parts) -> F32:
    """The part of each error that is given up: shrunk as the l_p norm's proximal map does."""
    step = np.repeat(np.abs(parts.steps()), grid.group, axis=1)
    error = np.divide(w - parts.weights(), step, out=np.zeros_like(w), where=step > 0)
    size = np.abs(error)
    loss = np.power(size, NORM - 1, out=np.full_like(size, np.inf), where=size > 0) / SHARPNESS
    return np.asarray(np.sign(error) * np.maximum(size - loss, 0) * step, np.float32)
