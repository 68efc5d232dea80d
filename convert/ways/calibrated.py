"""Conversions that run text through the model first: statistics, then types, then rows."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from ggq.convert.alloc.choose import choose_types
from ggq.convert.alloc.gate import Judge
from ggq.convert.alloc.held_out import HeldOut
from ggq.convert.calibrate.calibration import Calibration
from ggq.convert.calibrate.collect import collect
from ggq.convert.calibrate.importance import as_imatrix, save_imatrix
from ggq.convert.calibrate.self_text import written_by
from ggq.convert.calibrate.texts import CONTEXT, I32, Texts, choose_texts
from ggq.convert.methods import Needs, by_name
from ggq.convert.methods import Options as MethodOptions
from ggq.convert.mixtures.plan import Plan
from ggq.convert.reports.account import Account, TensorAccount
from ggq.convert.sources.tensor_source import Source
from ggq.convert.transforms import Fold
from ggq.convert.transforms import by_name as transform
from ggq.convert.transforms.auto import Auto
from ggq.convert.ways.fold_judge import FoldJudge
from ggq.convert.ways.prepared import Prepared
from ggq.convert.ways.reference_file import reference_file
from ggq.convert.ways.settings import Settings
from ggq.convert.writing.encoders import Encoder, LatticeEncoder
from ggq.convert.writing.pipeline import available_threads
from ggq.convert.writing.progress import Share
from ggq.convert.writing.rows_store import RowsStore

Say = Callable[[str], None]


def prepare_calibrated(
    wishes: Settings, source: Source, plan: Plan, stack: ExitStack, say: Say
) -> Prepared:
    """Statistics of the text, types by `wishes.alloc`, and the rows of all tensors.

    What is computed lies in the workdir, or in a temporary folder that `stack` removes.
    """
    folder = _folder(wishes, stack)
    judged = wishes.effort.held_out_tokens if _is_judged(wishes) else 0
    threads = wishes.threads or available_threads()

    def write(sequences: int) -> I32:
        path = reference_file(source, folder, threads)
        return written_by(path, sequences, CONTEXT, wishes.seed, threads)

    texts = choose_texts(source.metadata, wishes.calib, wishes.tokens, judged, wishes.seed, write)
    method = by_name(wishes.method)
    calibration = collect(
        source,
        texts.calibration,
        folder / f"calibration-{texts.hash}",
        gradients=_needs_gradients(wishes),
        sample_tokens=wishes.effort.sampled_tokens,
        as_llama=wishes.save_imatrix is not None,
        progress=Share("calibrating", wishes.progress),
    )
    if wishes.save_imatrix is not None:
        save_imatrix(calibration, wishes.save_imatrix, datasets=wishes.calib)
    held_out = HeldOut(folder, source, texts.held_out, threads, wishes.progress)

    def store_of(fold: Fold, passed_over: frozenset[str] = frozenset()) -> RowsStore:
        rows = folder / f"rows-{_identity(wishes, calibration, fold)}"
        known = fold.calibration(calibration)
        return RowsStore(
            rows, fold.apply(source), known, method, _options(wishes), threads, passed_over
        )

    fold = Fold()
    if wishes.transform != "none":
        judge_folds = FoldJudge(plan, calibration, held_out, store_of)
        fold = _searched(wishes, source, calibration, plan, judge_folds, say)
    on_grid: frozenset[str] = frozenset()
    if wishes.lattice:
        from ggq.convert.ways.on_lattice import keep_lattices

        plan, on_grid = keep_lattices(plan, fold.apply(source))
    store = store_of(fold, on_grid)
    encoder: Encoder = LatticeEncoder(store, on_grid) if on_grid else store
    account = Account(_facts(wishes, texts, fold, on_grid))
    predicted: dict[str, float] = {}
    if wishes.alloc == "fisher":
        imatrix = as_imatrix(fold.calibration(calibration))
        plain = LatticeEncoder(Encoder(), on_grid)
        judge = Judge(store, encoder, plain, imatrix, held_out)
        chosen = choose_types(wishes, plan, store, judge, account, say)
        plan, predicted = chosen.plan, chosen.sensitivities
    store.fill(plan.tensors, wishes.progress)
    account.tensors = _accounts(plan, store, predicted)
    return Prepared(store.source, plan, encoder, account)


def _is_judged(wishes: Settings) -> bool:
    """Whether something will be measured on text held out."""
    return wishes.alloc == "fisher" or wishes.transform == "auto"


def _needs_gradients(wishes: Settings) -> bool:
    """Whether the method, the allocation or the transform looks at gradients or single tokens."""
    guided = by_name(wishes.method).needs == Needs.GRADIENTS or wishes.alloc == "fisher"
    return guided or (wishes.transform != "none" and transform(wishes.transform).needs_calibration)


def _folder(wishes: Settings, stack: ExitStack) -> Path:
    if wishes.workdir is None:
        return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ggq-convert-")))
    wishes.workdir.mkdir(parents=True, exist_ok=True)
    return wishes.workdir


def _searched(
    wishes: Settings,
    source: Source,
    calibration: Calibration,
    plan: Plan,
    judge: FoldJudge,
    say: Say,
) -> Fold:
    """The fold of the transform asked for."""
    say(f"searching transform {wishes.transform}")
    types = {tensor.name: tensor.type for tensor in plan.tensors}
    if wishes.transform == Auto.name:
        fold = Auto().search(calibration, source, types, judge)
        say(f"transform {fold.notes[0]}")
        return fold
    return transform(wishes.transform).search(calibration, source, types)


def _identity(wishes: Settings, calibration: Calibration, fold: Fold) -> str:
    """Tells rows that were quantized alike from all others."""
    text = f"{calibration.hash} {wishes.method} {wishes.effort.sweeps} {fold.digest}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _options(wishes: Settings) -> MethodOptions:
    return MethodOptions(sweeps=wishes.effort.sweeps)


def _facts(
    wishes: Settings, texts: Texts, fold: Fold, on_grid: frozenset[str]
) -> dict[str, str | int | float]:
    facts: dict[str, str | int | float] = {
        "method": wishes.method,
        "transform": wishes.transform,
        "allocation": wishes.alloc,
        "effort": wishes.effort_name,
        "seed": wishes.seed,
        "calibration.hash": texts.hash,
        "calibration.tokens": int(texts.calibration.size),
    }
    if wishes.transform == Auto.name:
        facts["transform.found"] = fold.notes[0]
    elif wishes.transform != "none":
        facts["transform.found"] = f"{len(fold.notes)} groups of channels changed"
    if on_grid:
        facts["lattice.tensors"] = len(on_grid)
    return facts


def _accounts(plan: Plan, store: RowsStore, predicted: dict[str, float]) -> list[TensorAccount]:
    found = []
    for tensor in plan.tensors:
        loss = store.loss(tensor)
        found.append(
            TensorAccount(
                tensor.name,
                tensor.type.name,
                tensor.rule,
                tensor.bytes,
                None if loss is None else loss.plain,
                None if loss is None else loss.kept,
                predicted.get(tensor.name),
            )
        )
    return found
