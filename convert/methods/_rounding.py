"""The levels of rows whose scales are given, against a full Hessian: feedback, then descent."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ggq.convert.grids import Grid, Parts
from ggq.convert.methods._kernels import descent_kernel, feedback_kernel, gradient_kernel
from ggq.convert.methods._metric import Metric, Packed
from ggq.convert.methods._parallel import in_parallel
from ggq.jit import prepare
from ggq.jit.isa import target

F32 = npt.NDArray[np.float32]
I8 = npt.NDArray[np.int8]
I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]

_GROUPS = 4  # row groups a thread takes at a time


@dataclass(frozen=True)
class Rounding:
    """One type's levels under one Hessian."""

    grid: Grid
    metric: Metric
    damping: float
    sweeps: int

    def improve(self, w: F32, start: U8, threads: int) -> U8:
        """f32[R, C] and u8[R, row_bytes] with good scales -> the same scales, better levels."""
        if not len(self.metric.live) or not len(w):
            return start
        feedback = self.metric.feedback(self.damping)
        hessian = self.metric.packed(self.damping)
        prepare([kernel(self._table) for kernel in (feedback_kernel, descent_kernel)])
        prepare([gradient_kernel()])
        out = np.empty_like(start)

        def rows(first: int) -> None:
            part = slice(first, first + _GROUPS * target().lanes)
            parts = self.grid.unpack(start[part])
            levels = self._round(w[part], parts, feedback)
            levels = self._descend(w[part], parts, levels, hessian)
            out[part] = self.grid.pack(parts._replace(levels=levels))

        in_parallel(rows, range(0, len(w), _GROUPS * target().lanes), threads)
        return out

    @property
    def _table(self) -> tuple[int, ...] | None:
        return None if self.grid.is_even else self.grid.levels

    def _round(self, w: F32, parts: Parts, feedback: Packed) -> I8:
        place = self._place(feedback, parts)
        lost, levels = by_lanes(w, feedback), by_lanes(parts.levels, feedback)
        steps, offsets = scales_by_lanes(parts.steps()), scales_by_lanes(parts.offsets())
        feedback_kernel(self._table)(
            lost.ctypes.data, steps.ctypes.data, offsets.ctypes.data, levels.ctypes.data,
            place.ctypes.data, feedback.matrix.ctypes.data, feedback.columns, steps.shape[1],
            len(lost), self.grid.levels[0], self.grid.levels[-1],
        )  # fmt: skip
        return put_back(levels, feedback, parts.levels)

    def _descend(self, w: F32, parts: Parts, levels: I8, hessian: Packed) -> I8:
        """Rows start from `levels`, or from those of `parts` where these cost less."""
        place = self._place(hessian, parts)
        (errors, slopes, chosen), (old_errors, old_slopes, old) = (
            self._slopes(w, parts._replace(levels=each), hessian) for each in (levels, parts.levels)
        )
        cost, old_cost = (errors * slopes).sum(1), (old_errors * old_slopes).sum(1)
        worse = (cost > old_cost)[:, None]
        slopes, chosen = np.where(worse, old_slopes, slopes), np.where(worse, old, chosen)
        steps = scales_by_lanes(parts.steps())
        inverse = np.ones(hessian.columns, np.float32)
        damped = self.metric.diagonal[hessian.order] + self.damping * self.metric.unit
        inverse[: len(hessian.order)] = 1 / damped
        descent_kernel(self._table)(
            slopes.ctypes.data, steps.ctypes.data, chosen.ctypes.data, place.ctypes.data,
            hessian.matrix.ctypes.data, inverse.ctypes.data, hessian.columns, steps.shape[1],
            len(errors), self.grid.levels[0], self.grid.levels[-1], self.sweeps,
        )  # fmt: skip
        return put_back(chosen, hessian, parts.levels)

    def _slopes(self, w: F32, parts: Parts, hessian: Packed) -> tuple[F32, F32, F32]:
        """(E, E H, levels) by lanes"""
        errors, levels = by_lanes(parts.weights() - w, hessian), by_lanes(parts.levels, hessian)
        slopes = np.empty_like(errors)
        gradient_kernel()(
            errors.ctypes.data, slopes.ctypes.data, hessian.matrix.ctypes.data,
            hessian.columns, len(errors),
        )  # fmt: skip
        return errors, slopes, levels

    def _place(self, packed: Packed, parts: Parts) -> I64:
        """i64[places]: the scale of each; empty places have the one after the last, which is 0."""
        place = np.full(packed.columns, parts.scales.shape[1], np.int64)
        place[: len(packed.order)] = packed.order // self.grid.group
        return place


def by_lanes(x: npt.NDArray[np.generic], packed: Packed) -> F32:
    """[R, C] -> f32[row groups, places, lanes], 0 where there is no row or no column."""
    lanes = target().lanes
    out = np.zeros((-(-len(x) // lanes), packed.columns, lanes), np.float32)
    picked = x[:, packed.order]
    for g in range(len(out)):
        rows = picked[g * lanes : (g + 1) * lanes]
        out[g, : len(packed.order), : len(rows)] = rows.T
    return out


def scales_by_lanes(x: F32) -> F32:
    """f32[R, scales] -> f32[row groups, scales + 1, lanes], the last one 0."""
    order = np.arange(x.shape[1])
    none = np.zeros((1, x.shape[1] + 1, 1), np.float32)
    return by_lanes(x, Packed(order, none))


def put_back(levels: F32, packed: Packed, old: I8) -> I8:
    """[row groups, places, lanes] -> i8[R, C]; columns that have no place keep the old levels."""
    out = old.copy()
    live = levels[:, : len(packed.order)].astype(np.int8)
    out[:, packed.order] = live.transpose(0, 2, 1).reshape(-1, len(packed.order))[: len(old)]
    return out
