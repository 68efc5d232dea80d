"""The levels of rows whose scales are given, against a full Hessian: feedback, then descent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ggq.convert.grids import Grid, Parts
from ggq.convert.methods._kernels import descent_kernel, feedback_kernel, gradient_kernel
from ggq.convert.methods._metric import Metric, Packed
from ggq.convert.methods._parallel import in_parallel
from ggq.convert.methods._polish_kernels import Ends, Shape, polish_kernel
from ggq.convert.methods._scale_fit import by_rows, full, to_rows
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
        """f32[R, C] and u8[R, row_bytes] with good scales -> better levels, then better scales."""
        if not len(self.metric.live) or not len(w):
            return start
        feedback, hessian = self.metric.feedback(self.damping), self.metric.whole(self.damping)
        prepare([kernel(self._table) for kernel in (feedback_kernel, descent_kernel)])
        prepare([gradient_kernel(), polish_kernel(_shape(self.grid))])
        out = np.empty_like(start)

        def rows(first: int) -> None:
            part = slice(first, first + _GROUPS * target().lanes)
            parts = self.grid.unpack(start[part])
            fed = self._round(w[part], parts, feedback)
            out[part] = self.grid.pack(self._descend(w[part], parts, fed, hessian))

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

    def _descend(self, w: F32, parts: Parts, fed: I8, hessian: Packed) -> Parts:
        """Rows start from the levels fed, or from those of `parts` where these cost less."""
        new, old = (
            _State.of(w, parts._replace(levels=levels), hessian) for levels in (fed, parts.levels)
        )
        state = new.cheaper(old)
        place = self._place(hessian, parts)
        diagonal = self.metric.damped_diagonal(self.damping)
        inverse = np.divide(1, diagonal, out=np.zeros_like(diagonal), where=diagonal > 0)
        for sweep in range(self.sweeps):
            steps = scales_by_lanes(parts.steps())
            descent_kernel(self._table)(
                state.slopes.ctypes.data, steps.ctypes.data, state.levels.ctypes.data,
                place.ctypes.data, hessian.matrix.ctypes.data, inverse.ctypes.data,
                hessian.columns, steps.shape[1], len(steps),
                self.grid.levels[0], self.grid.levels[-1], 1,
            )  # fmt: skip
            if sweep + 1 < self.sweeps:
                parts = self._polish(parts, state, hessian)
        return parts._replace(levels=to_rows(state.levels, len(w)).astype(np.int8))

    def _polish(self, parts: Parts, state: _State, hessian: Packed) -> Parts:
        """Better scales for the levels there are."""
        numbers = [by_rows(each.astype(np.float32)) for each in full(parts)]
        polish_kernel(_shape(self.grid))(
            state.slopes.ctypes.data, state.levels.ctypes.data,
            *(each.ctypes.data for each in numbers),
            hessian.matrix.ctypes.data, hessian.columns, len(state.levels),
            *Ends(*self.grid.scale_range, top=self.grid.minimum_range[1]),
        )  # fmt: skip
        d, dmin, scales, minima = (to_rows(each, len(parts.d)) for each in numbers)
        found = parts._replace(d=d.astype(np.float16), scales=scales.astype(np.int16))
        if not self.grid.has_minimum:
            return found
        return found._replace(dmin=dmin.astype(np.float16), minima=minima.astype(np.int16))

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
    out[:, packed.order] = to_rows(levels[:, : len(packed.order)], len(old)).astype(np.int8)
    return out


def _shape(grid: Grid) -> Shape:
    return Shape(grid.type.weights, grid.group, grid.has_minimum)


class _State(NamedTuple):
    """By lanes f32[row groups, columns, lanes]: E, E H, and levels."""

    errors: F32
    slopes: F32
    levels: F32

    @classmethod
    def of(cls, w: F32, parts: Parts, hessian: Packed) -> _State:
        """That of parts that stand for w."""
        errors, levels = by_rows(parts.weights() - w), by_rows(parts.levels)
        return cls(errors, slopes_of(errors, hessian), levels)

    def cheaper(self, other: _State) -> _State:
        """Row by row the one of the two that costs less."""
        costs = [(state.errors * state.slopes).sum(1) for state in (self, other)]
        worse = (costs[0] > costs[1])[:, None]
        return _State(*(np.where(worse, b, a) for a, b in zip(self, other, strict=True)))


def slopes_of(errors: F32, hessian: Packed) -> F32:
    """E H, by lanes."""
    slopes = np.empty_like(errors)
    gradient_kernel()(
        errors.ctypes.data, slopes.ctypes.data, hessian.matrix.ctypes.data,
        hessian.columns, len(errors),
    )  # fmt: skip
    return slopes
