"""`gptq` with Hessians in which a token counts by its gradients (arXiv 2505.07004)."""

from __future__ import annotations

from ggq.convert.methods._base import F32, Needs, Statistics
from ggq.convert.methods.gptq import Gptq
from ggq.errors import QuantizeError


class Guided(Gptq):
    """Errors cost what they do to the model's output distribution, to second order."""

    name = "guided"
    needs = Needs.GRADIENTS
    simpler = "gptq"

    def _hessians(self, stats: Statistics) -> tuple[F32, F32]:
        if stats.guided is None or stats.guided_first is None:
            raise QuantizeError(
                "method guided needs gradients, and this calibration was collected without; "
                "collect it anew with gradients, or take method gptq"
            )
        return stats.guided, stats.guided_first
