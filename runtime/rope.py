"""Cosines and sines of rotary positions, filled as positions are first used.

Source: Su et al. 2021, arXiv:2104.09864; llama.cpp ggml-cpu/ops.cpp rope_yarn for YaRN
(Peng et al. 2023, arXiv:2309.00071).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ggq.runtime.arch._base import RopeScaling
from ggq.runtime.threads import aligned

_FILL = 512  # positions computed at a time


class RopeTable:
    """f32 [n_ctx, dims]: cosines of dims/2 angles, then their sines."""

    def __init__(
        self, dims: int, base: float, n_ctx: int, scaling: RopeScaling,
        factors: npt.NDArray[np.float32] | None = None,
    ) -> None:  # fmt: skip
        self.dims = dims
        self._n_ctx = n_ctx
        self._magnitude = scaling.attn_factor
        self._frequencies = _frequencies(dims, base, scaling, factors)
        self._memory = aligned(4 * dims * n_ctx)
        self._filled = 0

    @property
    def address(self) -> int:
        """Address of position 0."""
        return self._memory.ctypes.data

    @property
    def values(self) -> npt.NDArray[np.float32]:
        """f32 [n_ctx, dims]: cosines of every position, then sines; what `fill` made ready."""
        return self._memory.view(np.float32)[: self._n_ctx * self.dims].reshape(-1, self.dims)

    def fill(self, end: int) -> None:
        """Make positions below `end` ready."""
        while self._filled < min(end, self._n_ctx):
            stop = min(self._filled + _FILL, self._n_ctx)
            angles = np.arange(self._filled, stop)[:, None] * self._frequencies
            rows = self.values
            half = self.dims // 2
            rows[self._filled : stop, :half] = np.cos(angles) * self._magnitude
            rows[self._filled : stop, half:] = np.sin(angles) * self._magnitude
            self._filled = stop


def _frequencies(
    dims: int, base: float, scaling: RopeScaling, factors: npt.NDArray[np.float32] | None
) -> npt.NDArray[np.float64]:
    """f64 [dims/2]: angle per position of every pair."""
    own: npt.NDArray[np.float64] = base ** (-np.arange(0, dims, 2, dtype=np.float64) / dims)
    if factors is not None:
        own = own / factors
    if scaling.kind == "none":
        return own
    squeezed: npt.NDArray[np.float64] = own / scaling.factor
    if scaling.kind == "linear":
        return squeezed

    def dimension(rotations: float) -> float:
        """Pair that turns so many times within the trained context."""
        turns = scaling.original_context / (rotations * 2 * math.pi)
        return dims * math.log(turns) / (2 * math.log(base))

    low = max(0.0, math.floor(dimension(scaling.beta_fast)))
    high = min(dims - 1.0, math.ceil(dimension(scaling.beta_slow)))
    ramp = np.clip((np.arange(dims // 2) - low) / max(0.001, high - low), 0.0, 1.0)
    keep = (1.0 - ramp) * scaling.ext_factor
    blended: npt.NDArray[np.float64] = squeezed * (1.0 - keep) + own * keep
    return blended
