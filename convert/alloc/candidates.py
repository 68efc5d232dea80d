"""The types a tensor may get when a budget decides."""

from __future__ import annotations

from ggq.blocks import BlockType, by_name
from ggq.convert.mixtures.plan import Plan, PlannedTensor
from ggq.convert.mixtures.presets import is_quantized

LADDER = ("Q2_K", "Q3_K", "IQ4_XS", "Q4_K", "Q5_K", "Q6_K", "Q8_0")
SMALL_LADDER = ("Q4_0", "IQ4_NL", "Q4_1", "Q5_0", "Q5_1", "Q8_0")  # for rows not in 256s
# Slower to multiply by, and worth it only where the k-quants end.
LOW_LADDER = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S")
LOW_BITS = 3.5  # of all but the head
HEAD_SPAN = 2.0  # bits from the limit that types of the head are tried: all its rows are rounded
HELD_RULES = ("--tensor-type", "--output-tensor-type", "--token-embedding-type", "kept:", "lattice")


def is_held(tensor: PlannedTensor) -> bool:
    """Whether the user, or the tensor's nature, has settled the type."""
    return not is_quantized(tensor.type) or tensor.rule.startswith(HELD_RULES)


def candidates(
    plan: Plan, limit: int, head: str, *, few_of_head: bool
) -> dict[str, list[BlockType]]:
    """Tensor name -> types it may get in `limit` bytes of tensors; one type where it is held.

    `head`: the tensor that makes the logits; few of its types are tried where that takes long.
    """
    low = _bits_beside(head, plan, limit) < LOW_BITS
    found = {tensor.name: _of(tensor, low) for tensor in plan.tensors}
    if few_of_head:
        bits = 8 * limit / plan.n_weights
        near = (type for type in found[head] if _is_near(type, bits))
        found[head] = list(dict.fromkeys([*near, _planned(plan, head).type]))
    return found


def _bits_beside(head: str, plan: Plan, limit: int) -> float:
    """Bits per weight for all but the head: of a small model it is so much that k-quants end in
    sizes whose average is far above theirs.
    """
    tensor = _planned(plan, head)
    return 8 * (limit - tensor.bytes) / max(plan.n_weights - tensor.n_weights, 1)


def _planned(plan: Plan, name: str) -> PlannedTensor:
    return next(tensor for tensor in plan.tensors if tensor.name == name)


def _is_near(type: BlockType, bits_per_weight: float) -> bool:
    return abs(type.bits_per_weight - bits_per_weight) <= HEAD_SPAN


def _of(tensor: PlannedTensor, low: bool) -> list[BlockType]:
    if is_held(tensor):
        return [tensor.type]
    columns = tensor.shape[-1]
    names = (*LOW_LADDER, *LADDER) if low else LADDER
    fitting = [by_name(name) for name in names if columns % by_name(name).weights == 0]
    if columns % 256:
        small = (by_name(name) for name in SMALL_LADDER)
        fitting = [type for type in small if columns % type.weights == 0]
    return fitting if tensor.type in fitting else [*fitting, tensor.type]
