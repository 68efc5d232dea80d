"""Textbook rounding: absmax where a type has no offset, zero-point where it has one."""

from __future__ import annotations

import numpy as np

from ggq.blocks import BlockType
from ggq.convert.grids import grid_of
from ggq.convert.methods._base import F32, U8, Method, Needs, Prepared
from ggq.convert.methods._stored import check_finite, rounded


class Rtn(Method):
    """The largest weight of a group, or its range, decides the scale; nothing is searched."""

    name = "rtn"
    needs = Needs.NOTHING

    def covers(self, type: BlockType) -> bool:
        return grid_of(type) is not None

    def quantize(self, w: F32, type: BlockType, prepared: Prepared, *, threads: int = 0) -> U8:
        grid = grid_of(type)
        assert grid is not None
        check_finite(grid, w)
        groups = w.reshape(len(w), -1, grid.group)
        if grid.has_minimum:
            offsets = np.minimum(groups.min(-1), 0)
            steps = (np.maximum(groups.max(-1), 0) - offsets) / grid.levels[-1]
        else:
            offsets = np.zeros(groups.shape[:2], np.float32)
            steps = np.abs(groups).max(-1) / min(-grid.levels[0], grid.levels[-1])
        return grid.pack(rounded(grid, w, steps, offsets))
