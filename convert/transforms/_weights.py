"""Weights of a source as transforms look at them: a sample of rows, or a profile of columns."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from ggq.convert.sources.tensor_source import Source, TensorSource
from ggq.convert.transforms._channels import Part

F32 = npt.NDArray[np.float32]
CHUNK_WEIGHTS = 1 << 22  # weights in memory at once


class Weights:
    """The tensors of a source by name."""

    def __init__(self, source: Source) -> None:
        self.tensors = {tensor.info.name: tensor for tensor in source.tensors}

    def matrices(self, part: Part) -> list[int]:
        """Numbers of the matrices of a stack that `part` means; [0] where there is one."""
        if part.matrix is not None:
            return [part.matrix]
        count = self.tensors[part.tensor].info.shape[0] if self.is_stack(part.tensor) else 1
        return list(range(count))

    def is_stack(self, name: str) -> bool:
        """Whether a tensor has one matrix for each expert."""
        return len(self.tensors[name].info.shape) > 2

    def rows(self, name: str, matrix: int, count: int) -> tuple[F32, npt.NDArray[np.int64]]:
        """About `count` rows spread over a matrix: f32 [r, C] and their numbers in it, i64 [r]."""
        tensor = self.tensors[name]
        height, group = _height(tensor), tensor.group
        units = height // group
        wanted = min(units, max(1, count // group))
        starts = np.unique(np.linspace(0, units - 1, wanted).round().astype(np.int64)) * group
        first = matrix * height
        parts = [tensor.floats(first + int(s), first + int(s) + group) for s in starts]
        tensor.release(first, first + height)
        return np.concatenate(parts), (starts[:, None] + np.arange(group)).reshape(-1)

    def column_squares(self, part: Part) -> F32:
        """f32 [width]: sum over rows of the squares of each channel's columns, copies together."""
        total = sum(np.einsum("rc,rc->c", x, x, dtype=np.float64) for x in self._chunks(part))
        return part.folded(np.asarray(total, np.float32))

    def column_peaks(self, part: Part) -> F32:
        """f32 [width]: largest magnitude in each channel's columns."""
        peaks = np.max([np.abs(x).max(axis=0) for x in self._chunks(part)], axis=0)
        return part.peaks(peaks)

    def _chunks(self, part: Part) -> Iterator[F32]:
        tensor = self.tensors[part.tensor]
        height, columns = _height(tensor), tensor.info.shape[-1]
        step = max(1, CHUNK_WEIGHTS // columns // tensor.group) * tensor.group
        for matrix in self.matrices(part):
            first, last = matrix * height, (matrix + 1) * height
            for start in range(first, last, step):
                yield tensor.floats(start, min(start + step, last))
                tensor.release(start, min(start + step, last))


def _height(tensor: TensorSource) -> int:
    shape = tensor.info.shape
    return shape[-2] if len(shape) > 1 else 1
