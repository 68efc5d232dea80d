"""Scales of a site out of how large its inputs and its columns are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ggq.convert.transforms._base import Calibrated
from ggq.convert.transforms._channels import Part
from ggq.convert.transforms._objective import EXPERTS, spread
from ggq.convert.transforms._weights import Weights

F32 = npt.NDArray[np.float32]
FURTHEST = 2.0**12  # from their mean


@dataclass(frozen=True, eq=False)
class Sizes:
    """How large the inputs and the columns of every channel are, f32 [width]; 0 where dead."""

    inputs: F32
    columns: F32

    def scales(self, alpha: float, beta: float) -> F32:
        """f32 [width]: inputs^alpha / columns^beta, of geometric mean 1; 1 for dead channels."""
        live = (self.inputs > 0) & (self.columns > 0)
        logs = np.zeros(len(live))
        logs[live] = alpha * np.log2(self.inputs[live]) - beta * np.log2(self.columns[live])
        logs[live] -= logs[live].mean() if live.any() else 0
        limit = np.log2(FURTHEST)
        return np.exp2(np.clip(logs, -limit, limit)).astype(np.float32)


def mean_sizes(parts: Sequence[Part], weights: Weights, calibration: Calibrated) -> Sizes:
    """Root mean squares of the channels that `parts` read, over all of them.

    Of the inputs, those of the first position and overlong ones do not count fully: what they are
    is the sink's business.
    """
    inputs: F32 = np.zeros(1, np.float32)
    columns: F32 = np.zeros(1, np.float32)
    for part in parts:
        columns = columns + weights.column_squares(part)
        for matrix in spread(weights.matrices(part), EXPERTS):
            expert = matrix if weights.is_stack(part.tensor) else None
            stats = calibration.of(part.tensor, expert, guided=False, samples=False)
            inputs = inputs + part.folded(np.diagonal(stats.gram))
    return Sizes(np.sqrt(inputs), np.sqrt(columns))
