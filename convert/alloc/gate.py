"""What decides about an allocation in the end: divergence measured on text held out."""

from __future__ import annotations

from dataclasses import dataclass

from ggq.convert.alloc.held_out import CHOOSING, DECIDING, F64, HeldOut
from ggq.convert.mixtures.plan import Plan
from ggq.convert.writing.encoders import Encoder
from ggq.convert.writing.rows_store import RowsStore


@dataclass(frozen=True)
class Judge:
    """Measures plans for the source of `store`, whose rows `encoder` gives."""

    store: RowsStore
    encoder: Encoder
    held_out: HeldOut

    def swaps(self, plan: Plan) -> F64:
        """Divergences on the half that chooses."""
        return self._measure(plan, CHOOSING)

    def result(self, plan: Plan) -> F64:
        """Divergences on the half that nothing was chosen by."""
        return self._measure(plan, DECIDING)

    def _measure(self, plan: Plan, half: int) -> F64:
        self.store.fill(plan.tensors, self.held_out.progress)
        return self.held_out.divergences(self.store.source, plan, self.encoder, half)
