"""The words of rows whose scales are given, against a full Hessian: feedback, then descent."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ggq.convert.grids import WordGrid, WordParts
from ggq.convert.methods._kernels import gradient_kernel
from ggq.convert.methods._metric import Metric, Units
from ggq.convert.methods._parallel import in_parallel
from ggq.convert.methods._polish_kernels import Ends, Shape, polish_kernel
from ggq.convert.methods._rounding import by_lanes, scales_by_lanes
from ggq.convert.methods._scale_fit import by_rows, to_rows
from ggq.convert.methods._word_kernels import word_descent_kernel, word_feedback_kernel, word_table
from ggq.jit import prepare
from ggq.jit.isa import target

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]
U8 = npt.NDArray[np.uint8]
_EIGHT = 8
_GROUPS = 2  # row groups a thread takes at a time


@dataclass(frozen=True)
class WordRounding:
    """One codebook type's words under one Hessian."""

    grid: WordGrid
    metric: Metric
    damping: float
    sweeps: int

    def improve(self, w: F32, start: U8, threads: int) -> U8:
        """f32[R, C] and u8[R, row_bytes] with good scales -> the same scales, better words."""
        if not len(self.metric.live) or not len(w):
            return start
        feedback, whole = self.metric.unit_feedback(self.damping), self.metric.units(self.damping)
        prepare(
            [word_feedback_kernel(self.grid), word_descent_kernel(self.grid), gradient_kernel()]
        )
        table = word_table(self.grid)
        out = np.empty_like(start)

        def rows(first: int) -> None:
            part = slice(first, first + _GROUPS * target().lanes)
            parts = self.grid.unpack(start[part])
            chosen = self._feed_back(w[part], parts, feedback, table)
            out[part] = self.grid.pack(self._descend(w[part], parts, chosen, whole, table))

        in_parallel(rows, range(0, len(w), _GROUPS * target().lanes), threads)
        return out

    def _feed_back(self, w: F32, parts: WordParts, units: Units, table: F32) -> WordParts:
        lost = by_lanes(w, units.packed)
        levels = np.empty_like(lost)
        columns, dims = lost.shape[1], self.grid.dims
        words = np.empty((len(lost), columns // dims, lost.shape[2]), np.int32)
        steps, place = scales_by_lanes(self.grid.steps(parts)), self._place(units)
        word_feedback_kernel(self.grid)(
            lost.ctypes.data, steps.ctypes.data, levels.ctypes.data, words.ctypes.data,
            place.ctypes.data, units.packed.matrix.ctypes.data, units.blocks.ctypes.data,
            table.ctypes.data, columns, steps.shape[1], len(lost),
        )  # fmt: skip
        back = np.argsort(units.order)
        each = _EIGHT // dims
        words = words.reshape(len(words), -1, each, words.shape[2])[:, back]
        levels = levels.reshape(len(levels), -1, _EIGHT, levels.shape[2])[:, back]
        whole = len(lost), -1, lost.shape[2]
        return self._parts(parts, levels.reshape(whole), words.reshape(whole))

    def _descend(
        self, w: F32, parts: WordParts, chosen: WordParts, units: Units, table: F32
    ) -> WordParts:
        """Rows start from `chosen`, or from `parts` where that costs less."""
        (errors, slopes), (old_errors, old_slopes) = (
            self._slopes(w, each, units) for each in (chosen, parts)
        )
        worse = ((errors * slopes).sum(1) > (old_errors * old_slopes).sum(1))[:, None]
        slopes = np.where(worse, old_slopes, slopes)
        levels = np.where(
            worse, by_rows(self.grid.levels(parts)), by_rows(self.grid.levels(chosen))
        )
        words = np.where(
            worse, *(by_rows(each.words.astype(np.float32)) for each in (parts, chosen))
        ).astype(np.int32)
        place = self._place(units)
        for sweep in range(self.sweeps):
            steps = scales_by_lanes(self.grid.steps(parts))
            word_descent_kernel(self.grid)(
                slopes.ctypes.data, steps.ctypes.data, levels.ctypes.data, words.ctypes.data,
                place.ctypes.data, units.packed.matrix.ctypes.data, units.blocks.ctypes.data,
                table.ctypes.data, slopes.shape[1], steps.shape[1], len(slopes), 1,
            )  # fmt: skip
            if sweep + 1 < self.sweeps:
                parts = self._polish(parts, slopes, levels, units)
        return self._parts(parts, levels, words)

    def _polish(self, parts: WordParts, slopes: F32, levels: F32, units: Units) -> WordParts:
        """Better scales for the words there are; slopes follow."""
        unit = np.float32(self.grid.unit)
        d = by_rows(parts.d.astype(np.float32) * unit)
        scales, none = by_rows(2 * parts.scales + 1), np.zeros(1, np.float32)
        polish_kernel(self._shape)(
            slopes.ctypes.data, levels.ctypes.data, d.ctypes.data, none.ctypes.data,
            scales.ctypes.data, none.ctypes.data, units.packed.matrix.ctypes.data,
            slopes.shape[1], len(slopes),
            *Ends(1, 2 * self.grid.largest_scale + 1, stride=2, parts=round(1 / self.grid.unit)),
        )  # fmt: skip
        R = len(parts.d)
        return parts._replace(
            d=(to_rows(d, R) / unit).astype(np.float16),
            scales=((to_rows(scales, R) - 1) / 2).astype(np.int16),
        )

    @property
    def _shape(self) -> Shape:
        grid = self.grid
        return Shape(grid.type.weights, grid.group, False)

    def _slopes(self, w: F32, parts: WordParts, units: Units) -> tuple[F32, F32]:
        """(E, E H) by lanes"""
        errors = by_rows(self.grid.weights(parts) - w)
        slopes = np.empty_like(errors)
        gradient_kernel()(
            errors.ctypes.data, slopes.ctypes.data, units.packed.matrix.ctypes.data,
            errors.shape[1], len(errors),
        )  # fmt: skip
        return errors, slopes

    def _parts(self, parts: WordParts, levels: F32, words: F32 | I32) -> WordParts:
        """Those of signed levels and words by lanes."""
        R = len(parts.d)
        negative = to_rows(levels, R) < 0
        signs = np.packbits(negative, axis=1, bitorder="little")
        return parts._replace(words=to_rows(words, R).astype(np.int16), signs=signs)

    def _place(self, units: Units) -> npt.NDArray[np.int64]:
        return units.order * _EIGHT // self.grid.group
