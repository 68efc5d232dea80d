"""Calibration statistics without a model: Grams of made-up inputs, and what errors cost by them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Given:
    """What methods read of a tensor's statistics."""

    gram: F32
    first: F32
    guided: F32 | None = None
    guided_first: F32 | None = None
    outputs: tuple[F32, ...] = ()

    @property
    def square(self) -> F32:
        return np.ascontiguousarray(np.diagonal(self.gram + self.first))


def given_inputs(inputs: F32, first: F32 | None = None) -> Given:
    """Statistics of inputs f32[n, C] and of those of first positions."""
    gram = (inputs.T @ inputs / len(inputs)).astype(np.float32)
    none = np.zeros_like(gram)
    return Given(
        gram, none if first is None else (first.T @ first / len(inputs)).astype(np.float32)
    )


def correlated(columns: int, seed: int, decay: float = 0.8) -> F32:
    """f32[4 columns, columns]: inputs of uneven directions, with four outlier columns."""
    rng = np.random.default_rng(seed)
    mixing = np.linalg.qr(rng.standard_normal((columns, columns)))[0]
    sizes = np.arange(1, columns + 1) ** (-decay / 2)
    x = rng.standard_normal((4 * columns, columns)) * sizes @ mixing
    x[:, rng.permutation(columns)[:4]] *= 5
    return x.astype(np.float32)


def weights(rows: int, columns: int, seed: int) -> F32:
    """f32[R, C] of a size weights have."""
    return (np.random.default_rng(seed).standard_normal((rows, columns)) * 0.02).astype(np.float32)


def cost(decoded: F32, w: F32, hessian: F32) -> float:
    """tr(E H E^T) in doubles."""
    e = decoded.astype(np.float64) - w
    return float(np.sum(e @ hessian.astype(np.float64) * e))
