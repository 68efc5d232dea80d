"""Sums over tokens that become the statistics of a site or of a matrix."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ggq.convert.calibrate.moments import Moments, Outputs

Array = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]

CAP = 16  # times the median or the mean: no token weighs more
_PANEL = 2048  # rows of a Gram matrix made at a time
OUTPUT_ROWS = 2048  # rows of a matrix whose gradients are seen together


class Gram:
    """Sum of x x^T, f32 [columns, columns]; of a large one, what is above the diagonal blocks.

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
            whole[stop:, start:stop] = whole[start:stop, stop:].T
            if stop < len(whole):
                corner = whole[start:stop, start:stop]
                whole[start:stop, start:stop] = (corner + corner.T) / 2
        return whole


class Sums:
    """Moments of the inputs of one matrix."""

    def __init__(self, columns: int) -> None:
        self._count = 0
        self._later = 0  # tokens that are not the first of their sequence
        self._square = np.zeros(columns)
        self._total = np.zeros(columns)
        self._gram = Gram(columns)
        self._first: list[Array] = []

    def add(self, x: Array, is_first: Flags, squares: Array | None = None) -> None:
        """Add inputs f32 [n, columns]; `is_first` [n]: first of their sequence.

        With the mean `squares` [n] of the gradients at the outputs these weigh the tokens, capped;
        without, long rows are shortened.
        """
        self._count += len(x)
        if squares is None:
            self._square += np.einsum("nc,nc->c", x, x)
            self._total += x.sum(axis=0)
            roots = shortening(x, is_first)
        else:
            roots = capped_roots(squares, is_first)
        self._first.append(roots[is_first, None] * x[is_first])
        self._later += len(x) - int(is_first.sum())
        roots[is_first] = 0
        self._gram.add(x * roots[:, None])

    def moments(self) -> Moments:
        """What the sums come to; they are gone afterwards."""
        first = np.concatenate(self._first) / np.float32(max(1, self._later) ** 0.5)
        square, total = (x / max(1, self._count) for x in (self._square, self._total))
        gram = self._gram.mean(self._later)
        single = np.float32
        return Moments(
            self._count, self._later, gram, first, square.astype(single), total.astype(single)
        )


class OutputSums:
    """Sum of g g^T of the gradients g at the outputs of one matrix, in blocks of its rows.

    Tokens weigh by the squared norm of their inputs, so that with `guided` moments of these the
    Fisher information of the matrix is about a Kronecker product (Tseng et al. 2025,
    arXiv:2505.22988, sketch A). Neither an input nor a gradient weighs more than CAP times others;
    first positions, of which there are few and which differ from all others, are left out.
    """

    def __init__(self, rows: int) -> None:
        starts = range(0, rows, OUTPUT_ROWS)
        self._count = 0
        self._blocks = {start: Gram(min(OUTPUT_ROWS, rows - start)) for start in starts}

    def add(self, x: Array, gradients: Array, squares: Array, is_first: Flags) -> None:
        """Add gradients f32 [n, rows], whose mean `squares` are [n], and their inputs x [n, C]."""
        later = ~is_first
        if not later.any():
            return
        norms = np.einsum("nc,nc->n", x, x)[later]
        norms /= max(norms.mean(), np.finfo(norms.dtype).tiny)
        lengths = np.maximum(squares[later], np.finfo(squares.dtype).tiny)
        shares = np.minimum(1, CAP * lengths.mean() / lengths)
        g = gradients[later] * np.sqrt(np.minimum(norms, CAP) * shares)[:, None]
        self._count += len(g)
        for start, gram in self._blocks.items():
            gram.add(g[:, start : start + OUTPUT_ROWS])

    def outputs(self) -> Outputs:
        """What the sums come to; they are gone afterwards."""
        return Outputs(self._count, tuple(g.mean(self._count) for g in self._blocks.values()))


def shortening(x: Array, is_first: Flags) -> Array:
    """x [n, C] -> factors [n] of rows not first to CAP times their median squared norm at most."""
    norms = np.einsum("nc,nc->n", x, x)
    factors = np.ones(len(x), x.dtype)
    if not is_first.all():
        limit = CAP * np.median(norms[~is_first])
        long = (norms > limit) & ~is_first
        factors[long] = np.sqrt(limit / norms[long])
    return factors


def capped_roots(squares: Array, is_first: Flags) -> Array:
    """[n] weights -> their roots [n], none above CAP times the mean of those not first."""
    mean = squares[~is_first].mean() if not is_first.all() else squares.mean()
    roots: Array = np.sqrt(np.minimum(squares, CAP * mean))
    return roots
