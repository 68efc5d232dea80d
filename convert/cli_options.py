"""The options of ggq-convert: what they are called, which belong together, which exclude others."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ggq.cli_support import Parser
from ggq.convert.alloc.budget import Budget, max_kld, target_bpw, target_size
from ggq.convert.cli_defaults import (
    CALIBRATED_METHODS,
    DEFAULT,
    DEFAULT_TYPE,
    budgets,
    combination,
    needs_calibration,
)

if TYPE_CHECKING:
    from ggq.convert.ways.settings import Settings

PROG = "ggq-convert"
BLAS_THREADS = "OPENBLAS_NUM_THREADS"
METHODS = ("llama", "rtn", "hqq", "imatrix", "gptq", "guided", "yaqa")
TRANSFORMS = ("none", "awq", "smooth", "permute", "auto")
ALLOCATIONS = ("preset", "fisher")
EFFORTS = ("fast", "normal", "max")
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}


def parser() -> Parser:
    """The options, in groups."""
    made = Parser(PROG, "Make a GGUF file from a model directory, a hub id or another GGUF file.")
    add = made.add_argument
    add("source", metavar="SOURCE", help="model directory, ORG/NAME[@REVISION] on the hub, or GGUF")
    add("out", metavar="OUT.gguf", nargs="?", help="file to write; not needed for --dry-run")
    add("--dry-run", action="store_true", help="print the plan and write nothing")
    add("--json", action="store_true", help="print the plan as JSON (with --dry-run)")
    add("--threads", "-t", metavar="N", type=_count, default=0, help="default: all cores")
    add("--quiet", "-q", action="store_true", help="no progress")
    _add_size(made.add_argument_group("how large").add_argument)
    _add_quality(made.add_argument_group("how good").add_argument)
    _add_calibration(made.add_argument_group("calibration").add_argument)
    _add_types(made.add_argument_group("types of single tensors").add_argument)
    _add_file(made.add_argument_group("the file").add_argument)
    return made


def _add_size(add: Any) -> None:
    add("--type", help=f"preset of llama-quantize, in any case; default {DEFAULT_TYPE}")
    add("--target-size", metavar="SIZE", type=target_size, help="bytes of the file: 4.2GB, 4.2GiB")
    add("--target-bpw", metavar="BITS", type=target_bpw, help="bits per weight of all tensors")
    add("--max-kld", metavar="NATS", type=max_kld, help="smallest file this close to the original")


def _add_quality(add: Any) -> None:
    add("--compat", choices=["llama"], help="write what llama-quantize writes, byte for byte")
    add("--method", choices=METHODS, help=f"how weights are rounded; default {DEFAULT.method}")
    add("--alloc", choices=ALLOCATIONS, help="types from llama-quantize's tables or by prediction")
    add(
        "--transform", choices=TRANSFORMS, help="rearrange weights first without changing the model"
    )
    add("--effort", choices=EFFORTS, help="time spent; unset: normal, or hqq if over 30 minutes")
    add("--lattice", choices=["auto", "off"], default="off", help="keep weights that are on a grid")
    add("--seed", metavar="N", type=_seed, default=0, help="of everything drawn; default 0")
    add("--report", metavar="FILE", help="out.html or out.json: types, errors, sensitivities")


def _add_calibration(add: Any) -> None:
    add(
        "--calib",
        metavar="FILE",
        nargs="+",
        help="text files; builtin: the text that comes with ggq; self: sampled from the model",
    )
    add("--calib-tokens", metavar="N", type=_tokens, help="tokens of text to run, such as 48k")
    add("--no-calib", action="store_true", help="use no text at all")
    add("--imatrix", metavar="FILE", help="importance matrix of llama-imatrix, GGUF or .dat")
    add("--save-imatrix", metavar="FILE", help="write the importance matrix; .dat: the old format")
    add("--workdir", metavar="DIR", help="keep what was computed; an interrupted run goes on there")


def _add_types(add: Any) -> None:
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


def _add_file(add: Any) -> None:
    add("--split-max-size", metavar="N(K|M|G)", type=size, help="largest size of a shard")
    add("--split-max-tensors", metavar="N", type=_count, help="most tensors in a shard")
    add("--no-tensor-first-split", action="store_true", help="no tensors in the first shard")
    add("--model-name", metavar="NAME", help="general.name of the output")


def size(text: str) -> int:
    """Bytes of a size such as 500M. Raises ArgumentTypeError."""
    return _scaled(text, "a size such as 500M or 2G")


def _tokens(text: str) -> int:
    tokens = _scaled(text, "a number of tokens such as 48k")
    if not 1024 <= tokens <= 10**8:
        raise argparse.ArgumentTypeError(f"{text!r} is not from 1024 to 100M tokens")
    return tokens


def _scaled(text: str, wanted: str) -> int:
    found = re.fullmatch(r"(\d{1,15})([KMG]?)", text, re.IGNORECASE)
    if not found or not int(found[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
    return int(found[1]) * _UNITS[found[2].upper()]


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 65535")
    return int(text)


def _seed(text: str) -> int:
    if not text.isdecimal() or len(text) > 9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 999999999")
    return int(text)


def refuse_conflicts(args: argparse.Namespace) -> None:
    """Raise UsageError for options that exclude each other or need another one."""
    from ggq.errors import UsageError

    if args.out is None and not args.dry_run:
        raise UsageError("OUT.gguf is missing: name the file to write")
    if args.json and not args.dry_run:
        raise UsageError("--json is for the plan that --dry-run prints")
    for one, other, why in _conflicts(args):
        raise UsageError(f"{one} and {other} exclude each other: {why}")
    if args.report is not None and not args.report.lower().endswith((".html", ".json")):
        raise UsageError(f"--report {args.report}: the name must end in .html or .json")
    if args.workdir is not None and not needs_calibration(args):
        raise UsageError("--workdir keeps what calibration computes; this run does not calibrate")


def settings(args: argparse.Namespace) -> Settings:
    """What the options ask for, defaults filled in."""
    from pathlib import Path

    from ggq.convert.ways.settings import Settings

    chosen = combination(args)
    return Settings(
        method=chosen.method,
        transform=chosen.transform,
        alloc=chosen.alloc,
        budget=Budget(args.target_size, args.target_bpw, args.max_kld),
        calib=tuple(args.calib or ["builtin"]),
        calib_tokens=args.calib_tokens,
        effort_name=args.effort or "normal",
        seed=args.seed,
        lattice=args.lattice == "auto",
        workdir=None if args.workdir is None else Path(args.workdir),
        save_imatrix=None if args.save_imatrix is None else Path(args.save_imatrix),
        threads=args.threads,
        progress=not args.quiet,
    )


def _conflicts(args: argparse.Namespace) -> Iterable[tuple[str, str, str]]:
    """(option, option, why) of those that were given together and must not be."""
    limits = budgets(args)
    fisher = [*limits, *(["--alloc fisher"] if args.alloc == "fisher" else [])]
    with_data = [*_data_options(args), *fisher]
    if args.transform not in (None, "none"):
        with_data.append(f"--transform {args.transform}")
    if args.method in CALIBRATED_METHODS and not (args.method == "imatrix" and args.imatrix):
        with_data.append(f"--method {args.method}")
    if len(limits) > 1:
        yield limits[0], limits[1], "a run has one limit"
    if limits and args.type:
        yield limits[0], "--type", "the limit chooses the types"
    if limits and args.alloc == "preset":
        yield limits[0], "--alloc preset", "a limit needs --alloc fisher"
    if fisher and args.pure:
        yield fisher[0], "--pure", "one gives tensors different types, the other the same"
    if args.compat:
        other = [*with_data, *(["--lattice auto"] if args.lattice == "auto" else [])]
        other += [f"--method {args.method}"] if args.method not in (None, "llama") else []
        for option in other:
            yield f"--compat {args.compat}", option, "llama-quantize knows nothing of it"
    if args.no_calib:
        for option in with_data:
            yield "--no-calib", option, "it needs text to be run through the model"
    if args.imatrix and args.method not in (None, "llama", "imatrix"):
        why = "only the methods llama and imatrix weigh by it"
        yield "--imatrix", f"--method {args.method}", why
    if args.imatrix and _data_options(args):
        yield "--imatrix", _data_options(args)[0], "there is one source of importance"


def _data_options(args: argparse.Namespace) -> list[str]:
    given = {
        "--calib": args.calib,
        "--calib-tokens": args.calib_tokens,
        "--save-imatrix": args.save_imatrix,
    }
    return [option for option, value in given.items() if value is not None]
