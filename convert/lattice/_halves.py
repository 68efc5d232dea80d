"""Scales as blocks store them: half floats, told from other numbers by how few there are."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

TOLERANCE = 2.0**-22  # relative: a few roundings to f32
MAX_HALF = 65504.0


def nearest_half(x: F64) -> F64:
    """The f16 next to each number, 0 for numbers beyond them."""
    return np.where(abs(x) <= MAX_HALF, x, 0).astype(np.float16).astype(np.float64)


def half_candidates(estimates: F64, errors: F64 | float) -> list[F64]:
    """Of f64[N, P] estimates with absolute errors up to f64[N, 1], those that are an f16.

    Gives f64[N] for the first such of each row, the second, ...; 0 where there is none.
    """
    half = nearest_half(estimates)
    known = (half != 0) & (abs(half - estimates) <= errors)
    most = int(known.sum(1).max(initial=0))
    order = np.argsort(~known, axis=1, kind="stable")[:, :most]
    kept = np.take_along_axis(np.where(known, half, 0), order, axis=1)
    return list(kept.T)


def as_bfloat(x: F32) -> F32:
    """The nearest BF16 values, ties to even."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    return (bits + 0x7FFF + (bits >> 16 & 1) & np.uint32(0xFFFF0000)).view(np.float32)
