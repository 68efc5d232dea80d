"""Where a run with a limit on bytes begins: the preset that fills it best."""

from __future__ import annotations

from collections.abc import Sequence

from ggq.convert.alloc.budget import Budget, tensor_bytes
from ggq.convert.mixtures.plan import Plan, make_plan
from ggq.convert.mixtures.presets import Preset, preset
from ggq.convert.mixtures.recipe import Options
from ggq.errors import UsageError
from ggq.metadata import Metadata
from ggq.spec import TensorInfo

LADDER = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K", "IQ2_XXS", "IQ1_S")
WITHOUT_LIMIT = "Q4_K_M"


def largest_preset_within(
    metadata: Metadata, tensors: Sequence[TensorInfo], options: Options, budget: Budget
) -> Preset:
    """The largest preset of the ladder whose tensors fit. Raises UsageError where none does."""
    smallest: Plan | None = None
    for name in LADDER:
        smallest = make_plan(metadata, tensors, preset(name), options)
        limit = tensor_bytes(budget, metadata, smallest)
        if limit is None:
            return preset(WITHOUT_LIMIT)
        if smallest.total_bytes <= limit:
            return preset(name)
    assert smallest is not None
    raise UsageError(
        f"the smallest preset, {smallest.preset.name}, takes {smallest.total_bytes:,} bytes of"
        " tensors, which is more than the limit allows; ask for a larger file"
    )
