"""The Hessian of a site as the kernels read it: damped, live columns only, ordered, packed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from ggq.convert.methods._kernels import EIGHT
from ggq.errors import QuantizeError

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

T = TypeVar("T")
_DEAD_DAMPING = 1e-4  # of a column never used, as a share of the others': its errors cost nothing
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


class Units(NamedTuple):
    """Columns in units of eight: `packed` between units, `blocks` f32[C / 8, 8, 8] within."""

    packed: Packed
    blocks: F32

    @property
    def order(self) -> I64:
        """i64[C / 8]: the unit at each place."""
        return self.packed.order[::EIGHT] // EIGHT


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
        self._kept: dict[tuple[str, float], Any] = {}
        self._lock = threading.Lock()

    def damped(self, damping: float, columns: I64) -> F64:
        """f64[n, n]: rows and columns of H, the diagonal raised by damping * unit."""
        out = self.hessian[np.ix_(columns, columns)].astype(np.float64)
        live = self.diagonal[columns] > _DEAD * self.diagonal.mean()
        out[np.diag_indices_from(out)] += damping * self.unit * np.where(live, 1, _DEAD_DAMPING)
        return out

    def damped_diagonal(self, damping: float) -> F32:
        """f32[C]: the diagonal of the damped Hessian."""
        live = self.diagonal > _DEAD * self.diagonal.mean()
        extra = damping * self.unit * np.where(live, 1, _DEAD_DAMPING)
        return (self.diagonal + extra).astype(np.float32)

    def whole(self, damping: float) -> Packed:
        """The damped Hessian of all columns, in their own order."""
        return self.units(damping).packed

    def feedback(self, damping: float) -> Packed:
        """Coefficients of error feedback; the columns of largest diagonal come first.

        With H = V V^T, V upper triangular, tr(E H E^T) = |E V|^2, and column k of E V is 0 when its
        weight takes up the errors j before it times V[j, k] / V[k, k]. That is what GPTQ computes
        from the inverse (Frantar et al. 2022, arXiv 2210.17323; QuIP, arXiv 2307.13304).
        """

        def make() -> Packed:
            order, upper = self._by_use(damping)
            upper /= np.diagonal(upper).copy()
            np.fill_diagonal(upper, 0)
            return Packed(order, _pack(upper))

        return self._once("feedback", damping, make)

    def _by_use(self, damping: float) -> tuple[I64, F64]:
        """(live columns, those of largest diagonal first; V of the damped Hessian in that order)"""
        order = self.live[np.argsort(-self.diagonal[self.live], kind="stable")]
        return order, upper_factor(self.damped(damping, order), self.unit)

    def units(self, damping: float) -> Units:
        """The damped Hessian of all columns, in their own order, and its diagonal blocks."""

        def make() -> Units:
            columns = np.arange(len(self.diagonal))
            hessian = self.damped(damping, columns)
            return Units(Packed(columns, _pack(hessian)), _diagonal_blocks(hessian))

        return self._once("units", damping, make)

    def unit_feedback(self, damping: float) -> Units:
        """As `feedback`, for eight columns at a time; errors within a unit cost x B x^T, B a block.

        In the block form coefficients are V[j, b] V[b, b]^-1 and a unit's own metric is V[b, b]
        V[b, b]^T. Units of largest trace come first.
        """

        def make() -> Units:
            traces = self.diagonal.reshape(-1, EIGHT).sum(1)
            units = np.argsort(-traces, kind="stable")
            columns = (units[:, None] * EIGHT + np.arange(EIGHT)).reshape(-1)
            upper = upper_factor(self.damped(damping, columns), self.unit)
            own = _diagonal_blocks(upper).astype(np.float64)
            blocks = (own @ own.transpose(0, 2, 1)).astype(np.float32)
            by_unit = upper.reshape(len(upper), -1, EIGHT).transpose(1, 0, 2)
            coefficients = (by_unit @ np.linalg.inv(own)).transpose(1, 0, 2).reshape(upper.shape)
            before = np.arange(len(upper))[:, None] // EIGHT < np.arange(len(upper)) // EIGHT
            return Units(Packed(columns, _pack(coefficients * before)), blocks)

        return self._once("unit feedback", damping, make)

    def _once(self, name: str, damping: float, make: Callable[[], T]) -> T:
        with self._lock:
            key = name, damping
            if key not in self._kept:
                self._kept[key] = make()
            found: T = self._kept[key]
            return found


def _diagonal_blocks(matrix: F64) -> F32:
    units = len(matrix) // EIGHT
    each = np.arange(units)
    blocks = matrix.reshape(units, EIGHT, units, EIGHT)[each, :, each]
    return np.ascontiguousarray(blocks, np.float32)


def upper_factor(matrix: F64, unit: float) -> F64:
    """V upper triangular with V V^T = matrix, which is damped more if it is not positive."""
    diagonal = np.diagonal(matrix)
    if np.count_nonzero(matrix) == np.count_nonzero(diagonal):
        return np.diag(np.sqrt(np.maximum(diagonal, 1e-12 * unit)))
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
