"""SmoothQuant: part of the inputs' spread moves into the weights, by one formula for all sites.

Xiao et al. 2022, "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language
Models" (arXiv 2211.10438), equation 4: s = max|x|^alpha / max|w|^(1 - alpha).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ggq.convert.sources.tensor_source import Source
from ggq.convert.transforms._base import Calibrated, Transform, Types, source_channels
from ggq.convert.transforms._channels import Part
from ggq.convert.transforms._fold import Fold, scaled
from ggq.convert.transforms._objective import EXPERTS, coarse_parts, sampled_inputs, spread
from ggq.convert.transforms._scales import Sizes
from ggq.convert.transforms._weights import Weights

F32 = npt.NDArray[np.float32]
ALPHA = 0.5  # the paper's for most models


class Smooth(Transform):
    """Every site whose readers will be quantized, alpha 0.5."""

    name = "smooth"

    def search(
        self,
        calibration: Calibrated | None,
        source: Source,
        types: Types,
    ) -> Fold:
        """Scales by the formula, as ratios to their mean; nothing is tried, nothing compared."""
        given = self.required(calibration)
        weights, fold = Weights(source), Fold()
        for site in source_channels(source).sites:
            if parts := coarse_parts(site.readers, types):
                scales = peak_sizes(parts, weights, given).scales(ALPHA, 1 - ALPHA)
                fold = fold.then(scaled(site, scales))
        return fold


def peak_sizes(parts: Sequence[Part], weights: Weights, calibration: Calibrated) -> Sizes:
    """Largest magnitudes of the channels that `parts` read, in the inputs and in the columns."""
    inputs: F32 = np.zeros(1, np.float32)
    columns: F32 = np.zeros(1, np.float32)
    for part in parts:
        columns = np.maximum(columns, weights.column_peaks(part))
        for matrix in spread(weights.matrices(part), EXPERTS):
            expert = matrix if weights.is_stack(part.tensor) else None
            x = sampled_inputs(part, calibration.of(part.tensor, expert, guided=False))
            if len(x):
                inputs = np.maximum(inputs, part.peaks(np.abs(x).max(axis=0)))
    return Sizes(inputs, columns)
