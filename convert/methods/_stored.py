"""Scales as types store them: super-scales in half precision, integers below them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ggq.convert.grids import Grid, Parts
from ggq.convert.methods._scale_fit import nearest_levels
from ggq.errors import QuantizeError

F32 = npt.NDArray[np.float32]


def check_finite(grid: Grid, w: F32) -> None:
    """Raises QuantizeError with row and column for a weight that is not finite or too large."""
    most = 65504.0 * max(abs(level) for level in grid.levels) * max(map(abs, grid.scale_range))
    bad = np.argwhere(~(np.abs(w) < most))
    if len(bad):
        row, column = (int(i) for i in bad[0])
        raise QuantizeError(
            f"the weight in row {row}, column {column} is {w[row, column]!s}: {grid.type} can only "
            f"hold finite weights below {most:.3g}",
            row=row,
            column=column,
        )


def rounded(grid: Grid, w: F32, steps: F32, offsets: F32) -> Parts:
    """f32[R, C] with a step and an offset for each group [R, C / group] -> parts, all by rounding.

    The largest step of a block becomes the largest integer, offsets likewise.
    """
    groups = grid.type.weights // grid.group
    d, scales = _split(steps, groups, min(abs(end) for end in grid.scale_range if end))
    found = Parts(d, None, scales, None, np.empty(w.shape, np.int8))
    if grid.has_minimum:
        dmin, minima = _split(offsets, groups, grid.minimum_range[1])
        found = found._replace(dmin=dmin, minima=minima)
    return found._replace(levels=nearest_levels(grid, w, found))


def _split(
    numbers: F32, groups: int, top: int
) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.int16]]:
    """Numbers of one sign -> (units f16 [R, blocks], integers up to `top`)."""
    blocks = numbers.reshape(len(numbers), -1, groups)
    at = np.abs(blocks).argmax(-1)[..., None]
    units = (np.take_along_axis(blocks, at, -1) / top).astype(np.float16)
    whole = units.astype(np.float32)
    integers = np.rint(np.divide(blocks, whole, out=np.zeros_like(blocks), where=whole != 0))
    limited = np.clip(integers, 0 if top > 1 else 1, top).astype(np.int16)
    return units[..., 0], limited.reshape(numbers.shape)
