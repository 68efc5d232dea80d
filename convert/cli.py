"""ggq-convert: make a GGUF file from a model directory, a hub id or another GGUF file."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ggq.cli_support import printable, run
from ggq.convert.cli_defaults import (
    BEST_WITHOUT_DATA,
    DEFAULT_TYPE,
    PLAIN,
    asks_for_calibration,
    budgets,
    insists_on_calibration,
    needs_calibration,
)
from ggq.convert.cli_options import BLAS_THREADS, PROG, parser, refuse_conflicts, settings
from ggq.errors import UsageError
from ggq.runtime.cores import usable_cores

if TYPE_CHECKING:
    from ggq.convert.imatrix import Imatrix
    from ggq.convert.mixtures.plan import Plan
    from ggq.convert.mixtures.recipe import Options
    from ggq.convert.sources.tensor_source import Source
    from ggq.convert.ways.prepared import Prepared
    from ggq.convert.ways.settings import Settings
    from ggq.shards import Split


def main() -> int:
    """Run the tool and give its exit code."""
    blas_threads = os.environ.get(BLAS_THREADS)
    return run(lambda: _convert(parser().parse_args(), blas_threads), PROG)


def _convert(args: argparse.Namespace, blas_threads: str | None) -> int:
    refuse_conflicts(args)
    if needs_calibration(args) and blas_threads is None:
        os.environ[BLAS_THREADS] = str(args.threads or usable_cores())  # before numpy is loaded
    from ggq.convert.sources.open import open_source

    source = open_source(args.source, header_only=args.dry_run, name=args.model_name)
    for note in source.notes:
        _say(f"note: {note}")
    imatrix = _imatrix(args.imatrix, source)
    plan = _plan(args, source, imatrix, calibrates=needs_calibration(args))
    if args.dry_run:
        return _print_plan(plan, imatrix, args)
    if not args.allow_requantize:
        plan.refuse_requantizing()
    with ExitStack() as stack:
        return _write(args, _prepared(args, source, plan, imatrix, stack))


def _plan(
    args: argparse.Namespace, source: Source, imatrix: Imatrix | None, *, calibrates: bool
) -> Plan:
    from ggq.convert.mixtures.plan import make_plan
    from ggq.convert.mixtures.presets import preset

    infos = [tensor.info for tensor in source.tensors]
    has_imatrix = calibrates or (imatrix is not None and bool(imatrix.values))
    options = _options(args, source, has_imatrix)
    chosen = preset(args.type or DEFAULT_TYPE)
    if budgets(args):
        from ggq.convert.alloc.start import largest_preset_within

        budget = settings(args).budget
        chosen = largest_preset_within(source.metadata, infos, options, budget)
    return make_plan(source.metadata, infos, chosen, options)


def _prepared(
    args: argparse.Namespace,
    source: Source,
    plan: Plan,
    imatrix: Imatrix | None,
    stack: ExitStack,
) -> Prepared:
    from ggq.convert.ways.data_free import prepare_data_free

    wishes = settings(args)
    if needs_calibration(args):
        reason = _reason_against(args, wishes, source, plan)
        if reason is None:
            from ggq.convert.ways.calibrated import prepare_calibrated

            return prepare_calibrated(wishes, source, plan, stack, _say)
        _say(reason)
        wishes = replace(
            wishes, method=BEST_WITHOUT_DATA, alloc=PLAIN.alloc, transform=PLAIN.transform
        )
        plan = _plan(args, source, imatrix, calibrates=False)
    return prepare_data_free(wishes, source, plan, imatrix)


def _reason_against(
    args: argparse.Namespace, wishes: Settings, source: Source, plan: Plan
) -> str | None:
    """Why not to calibrate. Raises UsageError where nothing else gives what is asked for."""
    from ggq.convert.ways.affordable import cannot_run, too_long

    instead = f"method {BEST_WITHOUT_DATA} instead, which needs none"
    if not asks_for_calibration(args) and (reason := cannot_run(source)):
        return f"{reason}: {instead}"
    given = args.effort is not None
    reason = too_long(wishes, source, plan, effort_is_given=given, say=_say)
    if reason is None:
        return None
    more = shlex.join([*sys.argv, "--effort", "normal"])
    if insists_on_calibration(args):
        raise UsageError(f"{reason}; to do so: {more}")
    return f"{reason}: {instead}; for the better file: {more}"


def _write(args: argparse.Namespace, prepared: Prepared) -> int:
    from ggq.convert.writing.output_metadata import output_metadata
    from ggq.convert.writing.pipeline import convert

    source, plan = prepared.source, prepared.plan
    infos = [tensor.info for tensor in source.tensors]
    metadata = output_metadata(source.metadata, plan.preset, infos, prepared.imatrix)
    prepared.account.write_keys(metadata)
    result = convert(
        source,
        plan,
        metadata,
        Path(args.out),
        imatrix=prepared.importance,
        encoder=prepared.encoder,
        split=_split(args),
        threads=args.threads,
        progress=not args.quiet,
    )
    if args.report:
        _report(args, prepared, result.paths[0])
    if not args.quiet:
        _say(result.load.sentence())
    _say(f"{result.summary()}; try it: ggq-run {shlex.quote(str(result.paths[0]))} -p 'Hello'")
    return 0


def _report(args: argparse.Namespace, prepared: Prepared, written: Path) -> None:
    from ggq.convert.reports.report import write_report

    account = prepared.account
    if not any(tensor.error_after is not None for tensor in account.tensors):
        from ggq.convert.reports.weight_errors import with_weight_errors

        account.tensors = with_weight_errors(account.tensors, prepared.source, written)
    write_report(Path(args.report), account)


def _options(args: argparse.Namespace, source: Source, has_imatrix: bool) -> Options:
    from ggq.blocks import by_name
    from ggq.convert.mixtures.overrides import parse_override
    from ggq.convert.mixtures.presets import target_type
    from ggq.convert.mixtures.recipe import Options

    output, embedding = args.output_tensor_type, args.token_embedding_type
    return Options(
        pure=args.pure,
        overrides=tuple(parse_override(text) for text in args.tensor_type),
        output=target_type(output) if output else None,
        token_embedding=target_type(embedding) if embedding else None,
        leave_output=args.leave_output_tensor,
        has_imatrix=has_imatrix,
        allow_fallback=not args.no_fallback,
        kept=by_name("F32") if source.is_checkpoint else None,
    )


def _imatrix(path: str | None, source: Source) -> Imatrix | None:
    from ggq.convert.imatrix import read_imatrix

    if path is None:
        return None
    source.files.append(Path(path))
    return read_imatrix(path)


def _split(args: argparse.Namespace) -> Split | None:
    from ggq.shards import Split

    if not (args.split_max_size or args.split_max_tensors or args.no_tensor_first_split):
        return None
    return Split(args.split_max_size, args.split_max_tensors, args.no_tensor_first_split)


def _print_plan(plan: Plan, imatrix: Imatrix | None, args: argparse.Namespace) -> int:
    print(json.dumps(plan.as_json()) if args.json else plan.as_table())
    calibrates = needs_calibration(args)
    if settings(args).alloc == "fisher":
        _say(f"note: this is {plan.preset.name}; the run itself chooses types by what they cost")
    if imatrix is None and not calibrates and (warning := plan.imatrix_warning()):
        _say(f"warning: {warning}")
    return 0


def _say(line: str) -> None:
    print(f"{PROG}: {printable(line)}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
