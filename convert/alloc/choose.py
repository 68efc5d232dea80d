"""--alloc fisher from its table of costs to the plan that is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ggq.convert.alloc.budget import KEYS_BYTES, tensor_bytes
from ggq.convert.alloc.candidates import candidates
from ggq.convert.alloc.costs import cost_table
from ggq.convert.alloc.fisher import Allocation, Allocator, is_better, swapped
from ggq.convert.alloc.gate import Judge
from ggq.convert.mixtures.plan import Plan
from ggq.convert.reports.account import Account
from ggq.convert.sources.tensor_source import Source
from ggq.convert.ways.settings import Settings
from ggq.convert.writing.rows_store import RowsStore
from ggq.errors import UsageError

F64 = npt.NDArray[np.float64]
Say = Callable[[str], None]

EMBEDDING, HEAD = "token_embd.weight", "output.weight"
KLD_TRIALS = 4
KLD_MARGIN = 0.97  # aimed at, so that noise does not cost another trial


@dataclass(frozen=True)
class Chosen:
    """The plan, and each tensor's predicted share of its divergence in nats."""

    plan: Plan
    sensitivities: dict[str, float]


def choose_types(
    wishes: Settings, plan: Plan, store: RowsStore, judge: Judge, account: Account, say: Say
) -> Chosen:
    """Types for a plan's tensors under the limit of `wishes`; without one, in the plan's bytes.

    What was predicted and measured goes into `account`. Raises UsageError for an impossible limit.
    """
    limit = tensor_bytes(wishes.budget, store.source.metadata, plan)
    if limit is None:
        limit = plan.total_bytes - KEYS_BYTES
    head = _head(store.source)
    within_bytes = wishes.budget.max_kld is None
    menu = candidates(plan, limit, head, few_of_head=within_bytes)
    table = cost_table(plan, menu, store, head, wishes.progress)
    allocator = Allocator(plan, table)
    if wishes.budget.max_kld is not None:
        best = _within_kld(allocator, wishes.budget.max_kld, judge, account, say)
    else:
        best = _within_bytes(allocator, limit, wishes, judge, account, say)
    return Chosen(best.plan, allocator.costs(best.plan))


def _within_bytes(
    allocator: Allocator,
    limit: int,
    wishes: Settings,
    judge: Judge,
    account: Account,
    say: Say,
) -> Allocation:
    best, kept = allocator.within_bytes(limit), 0
    if wishes.effort.swaps:
        best, kept = swapped(allocator, limit, judge.swaps, wishes.effort.swaps, say)
    preset = allocator.of_preset()
    name = preset.plan.preset.name
    compared = ""
    if preset.plan.total_bytes <= limit + KEYS_BYTES:
        with_best, with_preset = judge.types(best.plan), judge.types(preset.plan)
        if not is_better(with_best, with_preset):
            say(f"the types of {name} measured no worse on text held out: they are kept")
            best, with_best, kept = preset, with_preset, 0
            account.facts["allocation"] = "preset"
        account.facts["kld.plain"] = float(with_best.mean())
        account.facts["kld.preset"] = float(with_preset.mean())
        compared = (
            f"; rounded as llama-quantize does {with_best.mean():.4f}, and so with the types of"
            f" {name} {with_preset.mean():.4f}"
        )
    measured = judge.result(best.plan)
    account.facts |= {
        "kld.predicted": best.predicted,
        "kld.measured": float(measured.mean()),
        "swaps": kept,
    }
    say(f"KL divergence on text held out: {measured.mean():.4f} nats a token{compared}")
    return best


def _within_kld(
    allocator: Allocator, wanted: float, judge: Judge, account: Account, say: Say
) -> Allocation:
    """The smallest found whose measured divergence is within `wanted` nats."""
    found: Allocation | None = None
    measured = divergences = np.zeros(1)
    factor = 1.0  # what is measured is a multiple of what is predicted
    for _ in range(KLD_TRIALS):
        tried = allocator.within_kld(max(KLD_MARGIN * wanted / factor, allocator.least))
        divergences = judge.result(tried.plan)
        factor = float(divergences.mean()) / max(tried.predicted, 1e-12)
        say(f"{tried.plan.total_bytes:,} bytes of tensors: {divergences.mean():.4f} nats measured")
        smaller = found is None or tried.plan.total_bytes < found.plan.total_bytes
        if divergences.mean() <= wanted and smaller:
            close = divergences.mean() >= 0.9 * wanted
            found, measured = tried, divergences
            if close:
                break
    if found is None:
        raise UsageError(
            f"--max-kld {wanted:g} was not reached: the last of {KLD_TRIALS} trials measured"
            f" {divergences.mean():.3g} nats; ask for more"
        )
    account.facts |= {
        "kld.predicted": found.predicted,
        "kld.measured": float(measured.mean()),
    }
    return found


def _head(source: Source) -> str:
    names = {tensor.info.name for tensor in source.tensors}
    return HEAD if HEAD in names else EMBEDDING
