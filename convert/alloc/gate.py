"""What decides about allocations: divergence measured on text held out."""

from __future__ import annotations

from dataclasses import dataclass

from ggq.convert.alloc.held_out import CHOOSING, DECIDING, F64, HeldOut
from ggq.convert.imatrix import Imatrix
from ggq.convert.mixtures.plan import Plan
from ggq.convert.writing.encoders import Encoder
from ggq.convert.writing.rows_store import RowsStore


@dataclass(frozen=True)
class Judge:
    """Measures plans for the source of `store`.

    A swap changes some tensors, and `encoder` has the rows of the others from `store`. The preset's
    types would have all rounded anew by the method, which takes minutes: what they are worth is
    seen with both plans rounded by `plain` and `imatrix`.
    """

    store: RowsStore
    encoder: Encoder
    plain: Encoder
    imatrix: Imatrix
    held_out: HeldOut

    def swaps(self, plan: Plan) -> F64:
        """Divergences on the half that chooses."""
        return self._by_method(plan, CHOOSING)

    def result(self, plan: Plan) -> F64:
        """Divergences on the half that nothing was chosen by."""
        return self._by_method(plan, DECIDING)

    def types(self, plan: Plan) -> F64:
        """The same of a plan's types, rounded plainly."""
        source = self.store.source
        return self.held_out.divergences(source, plan, self.plain, DECIDING, self.imatrix)

    def _by_method(self, plan: Plan, half: int) -> F64:
        self.store.fill(plan.tensors, self.held_out.progress)
        return self.held_out.divergences(self.store.source, plan, self.encoder, half)
