"""The transform, or pair of them, that wins on held-out tokens; none if none does."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ggq.convert.sources.tensor_source import Source
from ggq.convert.transforms._base import Calibrated, Transform, Types
from ggq.convert.transforms._channels import Axis, Part
from ggq.convert.transforms._fold import Fold
from ggq.convert.transforms._objective import held_out_costs
from ggq.convert.transforms._weights import Weights
from ggq.convert.transforms.awq import Awq
from ggq.convert.transforms.permute import Permute
from ggq.convert.transforms.smooth import Smooth

Judge = Callable[[Sequence[Fold]], Sequence[float]]
CANDIDATES: tuple[tuple[Transform, ...], ...] = (
    (Permute(),),
    (Awq(),),
    (Smooth(),),
    (Awq(), Permute()),
)
MARGIN = 0.99  # a winner must be at most this part of what none costs


class Auto(Transform):
    """Tries every candidate and keeps the one with the least loss."""

    name = "auto"

    def search(
        self,
        calibration: Calibrated | None,
        source: Source,
        types: Types,
        judge: Judge | None = None,
    ) -> Fold:
        """The best fold, which may be none.

        `judge` says what a model costs with each of some folds, the first of which is none: for
        example the divergence from the full model on a held-out text, once quantized. By default
        the errors of all outputs on sampled tokens by which no search chose a scale.
        """
        given = self.required(calibration)
        searched: dict[str, Fold] = {"none": Fold()}
        for chain in CANDIDATES:
            fold, name = Fold(), ""
            for transform in chain:
                name = f"{name}+{transform.name}".removeprefix("+")
                if name not in searched:
                    seen, changed = fold.calibration(given), fold.apply(source)
                    searched[name] = fold.then(transform.search(seen, changed, types))
                fold = searched[name]
        folds, names = list(searched.values()), list(searched)
        costs = judge(folds) if judge else predicted_costs(folds, source, given, types)
        best = int(np.argmin(costs))
        if costs[best] > MARGIN * costs[0]:
            best = 0
        measured = ", ".join(
            f"{name} x {cost / max(costs[0], 1e-30):.3f}"
            for name, cost in zip(names, costs, strict=True)
        )
        chosen = folds[best]
        return Fold(chosen.changes, (f"{names[best]} of {measured}", *chosen.notes))


def predicted_costs(
    folds: Sequence[Fold], source: Source, calibration: Calibrated, types: Types
) -> list[float]:
    """What each fold leaves of output error on held-out tokens, over all quantized matrices."""
    weights, known = Weights(source), set(calibration.names)
    names = [name for name, tensor in weights.tensors.items() if len(tensor.info.shape) > 1]
    parts = [Part(name, Axis.COLUMNS) for name in names if name in known]
    return [float(cost) for cost in held_out_costs(folds, parts, weights, calibration, types)]
