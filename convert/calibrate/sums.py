"""Sums over tokens that become the statistics of a site or of a matrix."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]

CAP = 16  # times the median or the mean: no token weighs more
_PANEL = 2048  # rows of a Gram matrix made at a time


class Gram:
    """Sum of x x^T, f32 [columns, columns]; only entries on and above the diagonal are summed.

    Each batch is summed by the matrix product, the batches in single precision: with hundreds of
    them the relative error stays near 1e-6, and the matrix takes half the memory of doubles.
    """

    def __init__(self, columns: int) -> None:
        self._sum = np.zeros((columns, columns), np.float32)

    def add(self, x: Array) -> None:
        """Add the rows of x f32 [n, columns]."""
        for start in range(0, len(self._sum), _PANEL):
            panel = slice(start, start + _PANEL)
            self._sum[panel, start:] += x[:, panel].T @ x[:, start:]

    def mean(self, count: int) -> Array:
        """f32 [columns, columns]: both halves, divided by `count`; the sum is gone afterwards."""
        whole = self._sum
        whole /= np.float32(max(1, count))
        for start in range(0, len(whole), _PANEL):
            stop = start + _PANEL
            corner = np.triu(whole[start:stop, start:stop])
            whole[start:stop, start:stop] = corner + np.triu(corner, 1).T
            whole[stop:, start:stop] = whole[start:stop, stop:].T
        return whole


class InputSums:
    """Moments of the inputs of one site."""

    def __init__(self, columns: int) -> None:
        self.count = 0
        self.later = 0  # tokens that are not the first of their sequence
        self._square = np.zeros(columns)
        self._total = np.zeros(columns)
        self._gram = Gram(columns)
        self._first: list[Array] = []

    def add(self, x: Array, is_first: Flags) -> None:
        """Add inputs f32 [n, columns]; `is_first` [n]: first of their sequence."""
        self.count += len(x)
        self._square += np.einsum("nc,nc->c", x, x)
        self._total += x.sum(axis=0)
        self._first.append(x[is_first])
        rest = x[~is_first]
        if not len(rest):
            return
        self.later += len(rest)
        norms = np.einsum("nc,nc->n", rest, rest)
        limit = CAP * np.median(norms)
        for row in np.flatnonzero(norms > limit):
            rest[row] *= np.sqrt(limit / norms[row])
        self._gram.add(rest)

    def arrays(self) -> Iterator[tuple[str, npt.NDArray[np.generic]]]:
        """(name, values) of what is kept."""
        yield "count", np.array([self.count, self.later])
        yield "square", (self._square / max(1, self.count)).astype(np.float32)
        yield "mean", (self._total / max(1, self.count)).astype(np.float32)
        yield "first", np.concatenate(self._first) if self._first else np.zeros((0, 0), np.float32)
        yield "gram", self._gram.mean(self.later)


class OutputSums:
    """Inputs of one matrix weighted by the gradient at its outputs, and sampled gradients."""

    def __init__(self, columns: int) -> None:
        self.later = 0
        self._gram = Gram(columns)
        self._first: list[Array] = []
        self._gradients: list[Array] = []

    def add(self, x: Array, squares: Array, is_first: Flags, gradients: Array) -> None:
        """Add inputs f32 [n, columns] with the mean squares [n] of the gradients at the outputs."""
        self._gradients.append(gradients)
        mean = squares[~is_first].mean() if not is_first.all() else squares.mean()
        weights = np.sqrt(np.minimum(squares, CAP * mean))[:, None]
        self._first.append(weights[is_first] * x[is_first])
        rest = weights[~is_first] * x[~is_first]
        self.later += len(rest)
        self._gram.add(rest)

    def arrays(self) -> Iterator[tuple[str, npt.NDArray[np.generic]]]:
        """(name, values) of what is kept."""
        yield "gradients", np.concatenate(self._gradients)
        yield "guided_first", np.concatenate(self._first)
        yield "guided", self._gram.mean(self.later)
