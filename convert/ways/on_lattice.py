"""--lattice auto: tensors whose weights already sit on the grid of a type keep them exactly."""

from __future__ import annotations

from ggq import blocks
from ggq.blocks import BlockType
from ggq.convert.grids import grid_of
from ggq.convert.lattice import type_of
from ggq.convert.mixtures.plan import Plan, PlannedTensor
from ggq.convert.mixtures.presets import is_quantized
from ggq.convert.sources.tensor_source import Source

RULE = "lattice: the weights are on its grid"


def keep_lattices(plan: Plan, source: Source) -> tuple[Plan, frozenset[str]]:
    """(the plan with types that hold weights exactly, names of those tensors).

    A tensor gets another type only where that takes no more bytes than the planned one.
    """
    tensors = {tensor.info.name: tensor for tensor in source.tensors}
    planned: list[PlannedTensor] = []
    names = set()
    for tensor in plan.tensors:
        candidates = _candidates(tensor)
        type = type_of(tensors[tensor.name], candidates) if candidates else None
        if type is None:
            planned.append(tensor)
            continue
        names.add(tensor.name)
        planned.append(tensor.as_type(type, RULE))
    return Plan(plan.preset, tuple(planned)), frozenset(names)


def _candidates(tensor: PlannedTensor) -> list[BlockType]:
    """Types to look for, the smallest first: none larger than the planned one."""
    if not is_quantized(tensor.type) or is_quantized(tensor.source_type):
        return []
    columns, bits = tensor.shape[-1], tensor.type.bits_per_weight
    found = [
        type
        for type in blocks.all_types()
        if grid_of(type) is not None
        and type.bits_per_weight <= bits
        and columns % type.weights == 0
    ]
    return sorted(found, key=lambda type: (type.bits_per_weight, type is not tensor.type))
