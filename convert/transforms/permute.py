"""Channels in the order of their columns' magnitude, so that a block of weights holds alike ones.

A block's grid is as coarse as its largest weight makes it. Where large columns stand among small
ones, every block pays for them; side by side only their own blocks do.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ggq.convert.sources.tensor_source import Source
from ggq.convert.transforms._base import Calibrated, Transform, Types, source_channels
from ggq.convert.transforms._channels import Group
from ggq.convert.transforms._fold import Fold, ordered
from ggq.convert.transforms._objective import held_out_costs
from ggq.convert.transforms._weights import Weights

I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]
SMALLEST = 1e-30


class Permute(Transform):
    """One order for the residual, one for each feed-forward layer and each value head."""

    name = "permute"
    needs_calibration = False

    def search(
        self,
        calibration: Calibrated | None,
        source: Source,
        types: Types,
    ) -> Fold:
        """Orders by magnitude. Where tokens are at hand to try them on, only those that help."""
        weights, fold = Weights(source), Fold()
        known = set(calibration.names) if calibration else set()
        for group in source_channels(source).groups:
            found = ordered(group, by_magnitude(group, weights))
            if calibration is None or not calibration.gradients:
                fold = fold.then(found)
                continue
            parts = [part for part in group.readers if part.tensor in known]
            before, after = held_out_costs((Fold(), found), parts, weights, calibration, types)
            if after < before:
                note = f"{group.name}: in the order of its columns, error x {after / before:.3f}"
                fold = fold.then(Fold(found.changes, (note,)))
        return fold


def by_magnitude(group: Group, weights: Weights) -> I64:
    """i64 [width]: within each run, the channel of the smallest columns first.

    A channel's magnitude is the mean over all matrices of the logarithm of its column's size
    relative to the matrix.
    """
    profile: F64 = np.zeros(group.width)
    for part in group.readers:
        if len(weights.tensors[part.tensor].info.shape) < 2:
            continue
        squares = weights.column_squares(part).astype(np.float64)
        profile += np.log(squares / max(squares.mean(), SMALLEST) + SMALLEST)
    runs = profile.reshape(-1, group.run)
    firsts = np.arange(len(runs))[:, None] * group.run
    return (np.argsort(runs, axis=1, kind="stable") + firsts).reshape(-1)
