"""The Hessian of a site as the kernels read it: damped, live columns only, ordered, packed."""

from __future__ import annotations

import threading
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ggq.convert.methods._kernels import EIGHT
from ggq.errors import QuantizeError

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

_DEAD = 1e-9  # share of the mean diagonal at which a column counts as never used


class Packed(NamedTuple):
    """Columns in an order and numbers between them.

    `order` i64[n]: column of the tensor at each place. `matrix` f32[m / 8, m, 8], m = n rounded up
    to eights: [b, j, c] stands between places j and 8 b + c, 0 beyond n.
    """

    order: I64
    matrix: F32

    @property
    def columns(self) -> int:
        """Places, the empty ones included."""
        return int(self.matrix.shape[1])


class Metric:
    """H f32[C, C], symmetric; what a weight error costs is E H E^T.

    `damping_unit` is what damping is a share of: the mean diagonal without the first positions,
    whose few huge inputs would drown the others (measured: more damping from them loses).
    """

    def __init__(self, hessian: F32, damping_unit: float) -> None:
        C = len(hessian)
        if hessian.shape != (C, C) or not np.isfinite(hessian).all():
            raise QuantizeError(
                f"the Hessian has shape {hessian.shape} and must be square and finite; "
                "collect the calibration anew"
            )
        self.hessian = hessian
        self.diagonal = np.ascontiguousarray(np.diagonal(hessian), np.float32)
        mean = float(self.diagonal.mean()) if C else 0.0
        self.unit = damping_unit if damping_unit > 0 else mean
        self.live = np.flatnonzero(self.diagonal > _DEAD * mean)
        self._kept: dict[tuple[float, int], Packed] = {}
        self._lock = threading.Lock()

    def damped(self, damping: float, columns: I64) -> F64:
        """f64[n, n]: rows and columns of H, the diagonal raised by damping * unit."""
        out = self.hessian[np.ix_(columns, columns)].astype(np.float64)
        out[np.diag_indices_from(out)] += damping * self.unit
        return out

    def packed(self, damping: float) -> Packed:
        """The damped Hessian of the live columns, in their own order."""
        with self._lock:
            key = damping, 0
            if key not in self._kept:
                self._kept[key] = Packed(self.live, _pack(self.damped(damping, self.live)))
            return self._kept[key]

    def feedback(self, damping: float) -> Packed:
        """Coefficients of error feedback; the columns of largest diagonal come first.

        With H = V V^T, V upper triangular, tr(E H E^T) = |E V|^2, and column k of E V is 0 when its
        weight takes up the errors j before it times V[j, k] / V[k, k]. That is what GPTQ computes
        from the inverse (Frantar et al. 2022, arXiv 2210.17323; QuIP, arXiv 2307.13304).
        """
        with self._lock:
            key = damping, 1
            if key not in self._kept:
                order = self.live[np.argsort(-self.diagonal[self.live], kind="stable")]
                upper = _upper_factor(self.damped(damping, order), self.unit)
                upper /= np.diagonal(upper).copy()
                np.fill_diagonal(upper, 0)
                self._kept[key] = Packed(order, _pack(upper))
            return self._kept[key]


def _upper_factor(matrix: F64, unit: float) -> F64:
    """V upper triangular with V V^T = matrix, which is damped more if it is not positive."""
    extra = 1e-6 * unit
    while True:
        try:
            lower = np.linalg.cholesky(matrix[::-1, ::-1])
            return np.asarray(lower[::-1, ::-1], np.float64).copy()
        except np.linalg.LinAlgError:
            matrix[np.diag_indices_from(matrix)] += extra
            extra *= 10


def _pack(matrix: F64) -> F32:
    n = len(matrix)
    m = -(-n // EIGHT) * EIGHT
    whole = np.zeros((m, m), np.float32)
    whole[:n, :n] = matrix
    return np.ascontiguousarray(whole.reshape(m, m // EIGHT, EIGHT).transpose(1, 0, 2))
