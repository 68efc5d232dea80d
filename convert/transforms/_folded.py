"""A tensor of a source, with the rows and columns of a fold, read some rows at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from ggq.convert.sources.tensor_source import TensorSource
from ggq.convert.transforms._channels import Axis
from ggq.convert.transforms._fold import Change, Fold

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]


class FoldedTensor(TensorSource):
    """`inner` changed by `fold`. A matrix of a stack changes by itself; rows stay in theirs."""

    def __init__(self, inner: TensorSource, fold: Fold) -> None:
        self._inner = inner
        self._fold = fold
        self.info = inner.info
        shape = inner.info.shape
        self._height = shape[-2] if len(shape) > 1 else 1
        self._moves = any(
            name == inner.info.name and axis is Axis.ROWS and change.order is not None
            for (name, axis, _), change in fold.changes.items()
        )
        self.group = 1 if self._moves else inner.group

    def floats(self, start: int, stop: int) -> F32:
        """The values of these rows after the fold."""
        parts = [self._matrix_floats(*part) for part in self._parts(start, stop)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def will_need(self, start: int, stop: int) -> None:
        """Read ahead; rows from elsewhere are read as they come."""
        if not self._moves:
            self._inner.will_need(start, stop)

    def read(self, start: int, stop: int) -> None:
        """Touch the pages, if it is known which."""
        if not self._moves:
            self._inner.read(start, stop)

    def release(self, start: int, stop: int) -> None:
        """Let go of the pages; of rows that come from everywhere, behind the last."""
        if not self._moves:
            self._inner.release(start, stop)
        elif stop == self.n_rows:
            self._inner.release(0, stop)

    def _parts(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """(matrix, first row, last row) of the matrices these rows lie in, rows within it."""
        height = self._height
        for matrix in range(start // height, -(-stop // height)):
            first = matrix * height
            yield matrix, max(0, start - first), min(height, stop - first)

    def _matrix_floats(self, matrix: int, start: int, stop: int) -> F32:
        name = self.info.name
        rows = self._fold.of(name, Axis.ROWS, matrix) or Change()
        columns = self._fold.of(name, Axis.COLUMNS, matrix) or Change()
        first = matrix * self._height
        if rows.order is None:
            x = self._inner.floats(first + start, first + stop)
        else:
            x = self._gathered(first + rows.order[start:stop])
        x = columns.apply(x)
        if rows.factors is not None:
            x = x * rows.factors[start:stop, None]
        return np.ascontiguousarray(x, np.float32)

    def _gathered(self, rows: I64) -> F32:
        """f32 [len(rows), C]: rows of the inner tensor from anywhere, read in runs."""
        group = self._inner.group
        units = np.unique(rows // group)
        out: F32 = np.empty((len(rows), self.info.shape[-1]), np.float32)
        for run in np.split(units, np.flatnonzero(np.diff(units) > 1) + 1):
            first, last = int(run[0]) * group, (int(run[-1]) + 1) * group
            wanted = (rows >= first) & (rows < last)
            out[wanted] = self._inner.floats(first, last)[rows[wanted] - first]
        return out
