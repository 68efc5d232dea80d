"""ggq-convert: make a GGUF file from a model directory, a hub id or another GGUF file."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ggq.cli_support import Parser, printable, run

if TYPE_CHECKING:
    from ggq.convert.imatrix import Imatrix
    from ggq.convert.plan import Plan
    from ggq.convert.recipe import Options
    from ggq.convert.tensor_source import Source
    from ggq.shards import Split

PROG = "ggq-convert"
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}


def main() -> int:
    """Run the tool and give its exit code."""
    return run(lambda: _convert(_parser().parse_args()), PROG)


def _parser() -> Parser:
    parser = Parser(PROG, "Make a GGUF file from a model directory, a hub id or another GGUF file.")
    add = parser.add_argument
    add("source", metavar="SOURCE", help="model directory, ORG/NAME[@REVISION] on the hub, or GGUF")
    add("out", metavar="OUT.gguf", nargs="?", help="file to write; not needed for --dry-run")
    add("--type", default="q4_k", help="preset of llama-quantize, in any case; default q4_k")
    add("--compat", choices=["llama"], default="llama", help="choose types as llama-quantize does")
    add("--dry-run", action="store_true", help="print the plan and write nothing")
    add("--json", action="store_true", help="print the plan as JSON (with --dry-run)")
    add("--imatrix", metavar="FILE", help="importance matrix of llama-imatrix, GGUF or .dat")
    add("--pure", action="store_true", help="no mixture: the same type for all tensors")
    add(
        "--tensor-type",
        metavar="REGEX=TYPE",
        action="append",
        default=[],
        help="type of the tensors with a matching name; may be repeated, the first match counts",
    )
    add("--output-tensor-type", metavar="TYPE", help="type of output.weight")
    add("--token-embedding-type", metavar="TYPE", help="type of token_embd.weight")
    add("--leave-output-tensor", action="store_true", help="do not quantize output.weight")
    add("--no-fallback", action="store_true", help="fail where a shape does not allow the type")
    add("--allow-requantize", action="store_true", help="quantize what is quantized already")
    add("--split-max-size", metavar="N(K|M|G)", type=size, help="largest size of a shard")
    add("--split-max-tensors", metavar="N", type=_count, help="most tensors in a shard")
    add("--no-tensor-first-split", action="store_true", help="no tensors in the first shard")
    add("--threads", "-t", metavar="N", type=_count, default=0, help="default: all cores")
    add("--model-name", metavar="NAME", help="general.name of the output")
    add("--quiet", "-q", action="store_true", help="no progress")
    return parser


def size(text: str) -> int:
    """Bytes of a size such as 500M. Raises ArgumentTypeError."""
    found = re.fullmatch(r"(\d{1,15})([KMG]?)", text, re.IGNORECASE)
    if not found or not int(found[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 500M or 2G")
    return int(found[1]) * _UNITS[found[2].upper()]


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 65535")
    return int(text)


def _convert(args: argparse.Namespace) -> int:
    from ggq.convert.open_source import open_source
    from ggq.convert.output_metadata import output_metadata
    from ggq.convert.pipeline import convert
    from ggq.convert.plan import make_plan
    from ggq.convert.presets import preset
    from ggq.errors import UsageError

    if args.out is None and not args.dry_run:
        raise UsageError("OUT.gguf is missing: name the file to write")
    if args.json and not args.dry_run:
        raise UsageError("--json is for the plan that --dry-run prints")
    chosen = preset(args.type)
    source = open_source(args.source, header_only=args.dry_run, name=args.model_name)
    infos = [tensor.info for tensor in source.tensors]
    imatrix = _imatrix(args.imatrix, source)
    plan = make_plan(source.metadata, infos, chosen, _options(args, source, imatrix))
    for note in source.notes:
        _say(f"note: {note}")
    if args.dry_run:
        return _print_plan(plan, imatrix, args.json)
    plan.require_imatrix(imatrix)
    if not args.allow_requantize:
        plan.refuse_requantizing()
    result = convert(
        source,
        plan,
        output_metadata(source.metadata, chosen, infos, imatrix),
        Path(args.out),
        imatrix=imatrix,
        split=_split(args),
        threads=args.threads,
        progress=not args.quiet,
    )
    if not args.quiet:
        _say(result.load.sentence())
    _say(f"{result.summary()}; try it: ggq-run {shlex.quote(str(result.paths[0]))} -p 'Hello'")
    return 0


def _options(args: argparse.Namespace, source: Source, imatrix: Imatrix | None) -> Options:
    from ggq.blocks import by_name
    from ggq.convert.overrides import parse_override
    from ggq.convert.presets import target_type
    from ggq.convert.recipe import Options

    output, embedding = args.output_tensor_type, args.token_embedding_type
    return Options(
        pure=args.pure,
        overrides=tuple(parse_override(text) for text in args.tensor_type),
        output=target_type(output) if output else None,
        token_embedding=target_type(embedding) if embedding else None,
        leave_output=args.leave_output_tensor,
        has_imatrix=imatrix is not None and bool(imatrix.values),
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


def _print_plan(plan: Plan, imatrix: Imatrix | None, as_json: bool) -> int:
    print(json.dumps(plan.as_json()) if as_json else plan.as_table())
    if imatrix is None and (warning := plan.imatrix_warning()):
        _say(f"warning: {warning}")
    return 0


def _say(line: str) -> None:
    print(f"{PROG}: {printable(line)}", file=sys.stderr)
