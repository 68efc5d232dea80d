"""The weights of the section that is running, as singles."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from ggq.convert.sources.tensor_source import Source, TensorSource

F32 = npt.NDArray[np.float32]
_ROWS = 4096  # rows of an embedding looked through at a time


class Weights:
    """Tensors of a source by name, read when asked for."""

    def __init__(self, source: Source) -> None:
        self.metadata = source.metadata
        self._tensors: dict[str, TensorSource] = {t.info.name: t for t in source.tensors}
        self.shapes = {name: tuple(t.info.shape) for name, t in self._tensors.items()}

    def read(self, name: str) -> F32:
        """f32 [shape]: the whole tensor."""
        tensor = self._tensors[name]
        values = np.array(tensor.floats(0, tensor.n_rows), np.float32)
        tensor.release(0, tensor.n_rows)
        return values.reshape(self.shapes[name])

    def read_all(self, names: Iterable[str]) -> dict[str, F32]:
        """Several tensors by name."""
        return {name: self.read(name) for name in names}

    def rows(self, name: str, wanted: npt.NDArray[np.int32]) -> F32:
        """f32 [n, C]: the `wanted` rows of a matrix, whose others are never all in memory."""
        tensor = self._tensors[name]
        out = np.empty((len(wanted), self.shapes[name][1]), np.float32)
        for start in range(0, tensor.n_rows, _ROWS):
            stop = min(start + _ROWS, tensor.n_rows)
            here = np.flatnonzero((wanted >= start) & (wanted < stop))
            if len(here):
                out[here] = tensor.floats(start, stop)[wanted[here] - start]
        tensor.release(0, tensor.n_rows)
        return out

    def digest(self) -> bytes:
        """Tells one model from another: names, shapes, and the ends of every tensor."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self._tensors.items()):
            digest.update(f"{name} {self.shapes[name]} ".encode())
            group = min(tensor.group, tensor.n_rows)
            for start in {0, tensor.n_rows - group}:
                digest.update(tensor.floats(start, start + group).tobytes())
        return digest.digest()
