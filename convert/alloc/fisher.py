"""--alloc fisher: the types of a plan chosen by predicted cost under a limit, then by measuring."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ggq.blocks import by_name
from ggq.convert.alloc.knapsack import (
    Choice,
    Chosen,
    cheapest_within,
    smallest_within,
)
from ggq.convert.mixtures.plan import Plan

F64 = npt.NDArray[np.float64]
Measure = Callable[[Plan], F64]  # KL divergence of every token judged, nats
Say = Callable[[str], None]
Table = Mapping[str, Sequence[Choice]]

RULE = "fisher: the least predicted divergence in the bytes"
STEP = 2.0  # factor of a kind's costs in one swap
_LAYER = re.compile(r"^blk\.\d+\.")


@dataclass(frozen=True)
class Allocation:
    """A plan whose types were chosen, with the divergence predicted for it, in nats."""

    plan: Plan
    predicted: float


class Allocator:
    """Chooses types for the tensors of `preset` that stand in `table`; the others keep theirs."""

    def __init__(self, preset: Plan, table: Table) -> None:
        self.preset = preset
        self.table = table
        self.kept_bytes = sum(t.bytes for t in preset.tensors if t.name not in table)

    @property
    def least(self) -> float:
        """Nats predicted when every tensor gets its best type, and a little for rounding."""
        best = sum(min(choice.cost for choice in choices) for choices in self.table.values())
        return best * (1 + 1e-9)

    def within_bytes(self, limit: int, factors: Mapping[str, float] | None = None) -> Allocation:
        """The least predicted divergence in `limit` bytes of tensors; costs of a kind of tensors
        times its factor. Raises UsageError when no choice is small enough.
        """
        weighed = _weighed(self.table, factors or {})
        return self._allocation(cheapest_within(weighed, limit - self.kept_bytes))

    def within_kld(self, limit: float) -> Allocation:
        """The fewest bytes with at most `limit` nats predicted. Raises UsageError."""
        return self._allocation(smallest_within(self.table, limit))

    def of_preset(self) -> Allocation:
        """The preset's own types."""
        return Allocation(self.preset, sum(self.costs(self.preset).values()))

    def costs(self, plan: Plan) -> dict[str, float]:
        """Predicted cost of each tensor of a plan that stands in the table."""
        types = {tensor.name: tensor.type.name for tensor in plan.tensors}
        return {
            name: next(choice.cost for choice in choices if choice.type == types[name])
            for name, choices in self.table.items()
        }

    def _allocation(self, chosen: Chosen) -> Allocation:
        tensors = [
            t.as_type(by_name(chosen[t.name].type), RULE) if t.name in chosen else t
            for t in self.preset.tensors
        ]
        plan = Plan(self.preset.preset, tuple(tensors))
        return Allocation(plan, sum(self.costs(plan).values()))


def kind_of(name: str) -> str:
    """What tensors of all layers share: "blk.3.attn_q.weight" is of kind "attn_q"."""
    return _LAYER.sub("", name).removesuffix(".weight")


def swapped(
    allocator: Allocator, limit: int, measure: Measure, trials: int, say: Say
) -> tuple[Allocation, int]:
    """(best allocation found, swaps that were kept) after `trials` measurements.

    One trial makes the errors of one kind of tensors count twice or half as much: bytes move to it
    or away from it, and the whole is measured. What measures better by more than its noise stays.
    """
    best = allocator.within_bytes(limit)
    divergences = measure(best.plan)
    factors: dict[str, float] = {}
    kept = 0
    for kind, factor in _trials(allocator.table, trials):
        tried = factors | {kind: factors.get(kind, 1.0) * factor}
        found = allocator.within_bytes(limit, tried)
        if found.plan.tensors == best.plan.tensors:
            continue
        new = measure(found.plan)
        say(
            f"types with errors of {kind} counted {factor:g} times: {new.mean():.4f} nats a token,"
            f" {divergences.mean():.4f} without"
        )
        if is_better(new, divergences):
            best, divergences, factors, kept = found, new, tried, kept + 1
    return best, kept


def is_better(new: F64, old: F64) -> bool:
    """Whether the mean is lower by more than the standard error of the paired difference."""
    difference = old - new
    noise = difference.std(ddof=1) / np.sqrt(len(difference)) if len(difference) > 1 else 0.0
    return bool(difference.mean() > noise)


def _trials(table: Table, trials: int) -> list[tuple[str, float]]:
    """(kind, factor) in the order of how much of the model a kind is."""
    weight: dict[str, int] = {}
    for name, choices in table.items():
        kind = kind_of(name)
        weight[kind] = weight.get(kind, 0) + choices[0].nbytes
    kinds = sorted(weight, key=lambda kind: -weight[kind])
    return [(kind, factor) for factor in (STEP, 1 / STEP) for kind in kinds][:trials]


def _weighed(table: Table, factors: Mapping[str, float]) -> Table:
    if not factors:
        return table
    return {
        name: [replace(c, cost=c.cost * factors.get(kind_of(name), 1.0)) for c in choices]
        for name, choices in table.items()
    }
