"""What decides about transforms: divergence measured on text held out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ggq.convert.alloc.held_out import CHOOSING, HeldOut
from ggq.convert.calibrate.calibration import Calibration
from ggq.convert.calibrate.importance import as_imatrix
from ggq.convert.methods import Needs
from ggq.convert.mixtures.plan import Plan
from ggq.convert.transforms import Fold
from ggq.convert.writing.encoders import Encoder
from ggq.convert.writing.rows_store import RowsStore


@dataclass(frozen=True)
class FoldJudge:
    """Measures folds with the types of `plan`.

    All of them rounded as llama-quantize does, which takes seconds; then the best of them and none
    by the method in use, whose rows `store_of` a fold keeps.
    """

    plan: Plan
    calibration: Calibration
    held_out: HeldOut
    store_of: Callable[[Fold], RowsStore]

    def __call__(self, folds: Sequence[Fold]) -> list[float]:
        """Nats for each; folds[0] is none.

        Where the method was used, all others shrink or grow as much as the best did by it.
        """
        costs = [self._plain(fold) for fold in folds]
        best = int(np.argmin(costs))
        if best and self.store_of(folds[0]).method.needs >= Needs.HESSIAN:
            none, kept = (self._by_method(folds[k]) for k in (0, best))
            factor = (kept / none) / (costs[best] / costs[0])
            costs = [none, *(none * factor * cost / costs[0] for cost in costs[1:])]
        return costs

    def _plain(self, fold: Fold) -> float:
        source = self.store_of(fold).source
        imatrix = as_imatrix(fold.calibration(self.calibration))
        found = self.held_out.divergences(source, self.plan, Encoder(), CHOOSING, imatrix)
        return float(found.mean())

    def _by_method(self, fold: Fold) -> float:
        store = self.store_of(fold)
        store.fill(self.plan.tensors, self.held_out.progress)
        found = self.held_out.divergences(store.source, self.plan, store, CHOOSING)
        return float(found.mean())
