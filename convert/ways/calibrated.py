"""Conversions that run text through the model first: statistics, then types, then rows."""

from __future__ import annotations

import hashlib
import shlex
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from ggq.convert.alloc.choose import choose_types
from ggq.convert.alloc.gate import Judge
from ggq.convert.calibrate.calibration import Calibration
from ggq.convert.calibrate.collect import collect
from ggq.convert.calibrate.importance import save_imatrix
from ggq.convert.calibrate.self_text import written_by
from ggq.convert.calibrate.texts import CONTEXT, I32, Texts, choose_texts
from ggq.convert.methods import Needs, by_name
from ggq.convert.methods import Options as MethodOptions
from ggq.convert.mixtures.plan import Plan
from ggq.convert.reports.account import Account, TensorAccount
from ggq.convert.sources.tensor_source import Source
from ggq.convert.ways.data_free import BEST
from ggq.convert.ways.estimate import estimate_seconds
from ggq.convert.ways.prepared import Prepared
from ggq.convert.ways.reference_file import reference_file
from ggq.convert.ways.settings import Settings
from ggq.convert.writing.encoders import Encoder, LatticeEncoder
from ggq.convert.writing.pipeline import available_threads
from ggq.convert.writing.progress import Share
from ggq.convert.writing.rows_store import Known, RowsStore
from ggq.errors import UsageError

Say = Callable[[str], None]

LONG_SECONDS = 1800.0


def affordable(
    wishes: Settings, source: Source, plan: Plan, *, effort_is_given: bool, say: Say
) -> bool:
    """Whether to calibrate, saying how long it will take.

    More than half an hour is spent only with --effort. Raises UsageError where nothing but
    calibration can give what is asked for.
    """
    seconds = estimate_seconds(wishes, source, plan)
    if effort_is_given or seconds <= LONG_SECONDS:
        say(f"this will take about {_duration(seconds)}")
        return True
    more = shlex.join([*sys.argv, "--effort", "normal"])
    if wishes.alloc == "fisher":
        raise UsageError(f"calibration would take about {_duration(seconds)}; to do so: {more}")
    say(
        f"calibration would take about {_duration(seconds)}: method {BEST} instead,"
        f" which needs none;"
        f" for the better file: {more}"
    )
    return False


def prepare_calibrated(
    wishes: Settings, source: Source, plan: Plan, stack: ExitStack, say: Say
) -> Prepared:
    """Statistics of the text, types by `wishes.alloc`, and the rows of all tensors.

    What is computed lies in the workdir, or in a temporary folder that `stack` removes.
    """
    folder = _folder(wishes, stack)
    judged = wishes.effort.held_out_tokens if wishes.alloc == "fisher" else 0
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
    folded, known = _folded(wishes, source, calibration, plan)
    on_grid: frozenset[str] = frozenset()
    if wishes.lattice:
        from ggq.convert.ways.on_lattice import keep_lattices

        plan, on_grid = keep_lattices(plan, folded)
    rows = folder / f"rows-{_identity(wishes, calibration, plan)}"
    store = RowsStore(rows, folded, known, method, _options(wishes), threads, on_grid)
    encoder: Encoder = LatticeEncoder(store, on_grid) if on_grid else store
    account = Account(_facts(wishes, texts, on_grid))
    predicted: dict[str, float] = {}
    if wishes.alloc == "fisher":
        judge = Judge(folder, source, folded, encoder, store, texts.held_out, wishes.progress)
        chosen = choose_types(wishes, plan, store, judge, account, say)
        plan, predicted = chosen.plan, chosen.sensitivities
    store.fill(plan.tensors, wishes.progress)
    account.tensors = _accounts(plan, store, predicted)
    return Prepared(folded, plan, encoder, account)


def _needs_gradients(wishes: Settings) -> bool:
    """Whether the method, the allocation or the transform looks at gradients or single tokens."""
    from ggq.convert.transforms import by_name as transform

    guided = by_name(wishes.method).needs == Needs.GRADIENTS or wishes.alloc == "fisher"
    return guided or (wishes.transform != "none" and transform(wishes.transform).needs_calibration)


def _folder(wishes: Settings, stack: ExitStack) -> Path:
    if wishes.workdir is None:
        return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ggq-convert-")))
    wishes.workdir.mkdir(parents=True, exist_ok=True)
    return wishes.workdir


def _folded(
    wishes: Settings, source: Source, calibration: Calibration, plan: Plan
) -> tuple[Source, Known]:
    if wishes.transform == "none":
        return source, calibration
    from ggq.convert.transforms import by_name as transform

    types = {tensor.name: tensor.type for tensor in plan.tensors}
    fold = transform(wishes.transform).search(calibration, source, types)
    return fold.apply(source), fold.calibration(calibration)


def _identity(wishes: Settings, calibration: Calibration, plan: Plan) -> str:
    """Tells rows that were quantized alike from all others."""
    types = [(tensor.name, tensor.type.name) for tensor in plan.tensors]
    folded_for = "" if wishes.transform == "none" else repr(types)
    text = f"{calibration.hash} {wishes.method} {wishes.effort.sweeps} {wishes.transform}"
    return hashlib.sha256((text + folded_for).encode()).hexdigest()[:16]


def _options(wishes: Settings) -> MethodOptions:
    return MethodOptions(sweeps=wishes.effort.sweeps)


def _facts(wishes: Settings, texts: Texts, on_grid: frozenset[str]) -> dict[str, str | int | float]:
    facts: dict[str, str | int | float] = {
        "method": wishes.method,
        "transform": wishes.transform,
        "allocation": wishes.alloc,
        "effort": wishes.effort_name,
        "seed": wishes.seed,
        "calibration.hash": texts.hash,
        "calibration.tokens": int(texts.calibration.size),
    }
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


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
