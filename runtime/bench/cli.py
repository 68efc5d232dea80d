"""ggq-bench: speed of models, with llama-bench's flags. Stdout holds the results, nothing else."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ggq.cli_support import Parser, run
from ggq.errors import UsageError
from ggq.runtime.bench.cases import MODEL_BATCH, Case, cases, numbers, pair, positive_numbers

if TYPE_CHECKING:
    from ggq.runtime.bench.roofline import Roofline

PROG = "ggq-bench"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and give its exit code."""
    return run(lambda: _run(_parser().parse_args(argv)), PROG)


def _parser() -> Parser:
    p = Parser(
        PROG,
        "Measure tokens per second, beside what the machine can do at most.",
        epilog="GB/s counts weights and KV cache, GOPS multiplications and additions. The limit is "
        "the time this machine needs to read so much in one stream per thread, or to do so many "
        "products of bytes (of 16-bit numbers or singles for floating point weights and for "
        "attention) from its nearest cache, whichever is longer; both are measured in the same "
        "run. Lists are numbers and ranges: 512,1024 or 1-4 or 64-256+64 or 1-16*2; a flag given "
        "again adds to them. Every combination is a test.",
    )
    p.add_argument("names", nargs="*", metavar="MODEL", help="GGUF file or org/name[:QUANT]")
    p.add_argument("-m", "--model", action="append", default=[], metavar="FILE[,FILE...]",
                   help="the same as a flag")  # fmt: skip
    tests = p.add_argument_group("tests")

    def listed(*flags: str, default: list[int], text: str, type: Any = numbers) -> None:
        shown = ",".join(map(str, default)) or "one per core"
        tests.add_argument(*flags, type=type, action=_Extend, default=default, metavar="N,...",
                           help=f"{text} (default: {shown})")  # fmt: skip

    listed("-p", "--n-prompt", default=[512], text="tokens of a prompt; 0: no such test")
    listed("-n", "--n-gen", default=[128], text="tokens of an answer; 0: no such test")
    tests.add_argument("-pg", type=pair, action="append", default=[], metavar="P,N",
                       help="a prompt and the answer to it, timed together")  # fmt: skip
    listed("-d", "--n-depth", default=[0], text="tokens before what is timed")
    listed("-b", "--batch-size", default=[2048], type=positive_numbers,
           text="tokens of a prompt given at a time")  # fmt: skip
    listed("-ub", "--ubatch-size", default=[MODEL_BATCH], type=positive_numbers,
           text=f"the same, at most {MODEL_BATCH}")  # fmt: skip
    listed("-t", "--threads", default=[], type=positive_numbers, text="threads")
    tests.add_argument("--exact", action="store_true",
                       help="do not round activations: slower, exact logits")  # fmt: skip
    _add_running(p.add_argument_group("running"))
    return p


def _add_running(p: argparse._ArgumentGroup) -> None:
    p.add_argument("-r", "--repetitions", type=_at_least_one, default=5, metavar="N",
                   help="times each test is repeated (default: 5)")  # fmt: skip
    p.add_argument("-o", "--output", choices=("csv", "json", "jsonl", "md", "sql", "table"),
                   default="md", help="form of the results (default: md)")  # fmt: skip
    p.add_argument("--delay", type=float, default=0.0, metavar="S",
                   help="seconds to wait before each repetition")  # fmt: skip
    p.add_argument("--no-warmup", action="store_true", help="no run that is not timed before")
    p.add_argument("--progress", action="store_true", help="tell on stderr what is being done")
    p.add_argument("--profile", action="store_true",
                   help="tell on stderr where the time of one more run went")  # fmt: skip
    limits = p.add_mutually_exclusive_group()
    limits.add_argument("--roofline", action="store_true",
                        help="without a model: only what the machine can do")  # fmt: skip
    limits.add_argument("--no-roofline", action="store_true",
                        help="do not measure what the machine can do")  # fmt: skip
    for flags in (("-ngl", "--n-gpu-layers"), ("-fa", "--flash-attn")):
        p.add_argument(*flags, metavar="X", help="accepted and ignored")


class _Extend(argparse.Action):
    """The first use of a flag replaces its default, later ones add."""

    def __call__(
        self, parser: object, namespace: argparse.Namespace, values: Any, option: object = None
    ) -> None:
        before = getattr(namespace, self.dest)
        setattr(namespace, self.dest, values if before is self.default else before + values)


def _at_least_one(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


def _run(args: argparse.Namespace) -> int:
    names = [*args.names, *(name for each in args.model for name in each.split(","))]
    if not names and not args.roofline:
        raise UsageError("no model; name a GGUF file, or see --help")
    if args.delay < 0:
        raise UsageError(f"wanted a delay of 0 seconds or more, not {args.delay:g}")
    wrong = [n for n in args.ubatch_size if n > MODEL_BATCH]
    if wrong:
        raise UsageError(f"-ub {wrong[0]}: prompts are run {MODEL_BATCH} tokens at a time at most")

    from ggq.runtime.bench import report
    from ggq.runtime.cores import usable_cores
    from ggq.runtime.hub import find_model

    threads = args.threads or [usable_cores()]
    tests = list(cases(args, [str(find_model(name)) for name in names], threads))
    rows = _rows(args, tests) if names else _roofline_rows(threads)
    columns = report.columns(tests, limits=not args.no_roofline) if names else report.MACHINE
    for text in report.lines(args.output, rows, columns):
        sys.stdout.write(text)
        sys.stdout.flush()
    return 0


def _roofline_rows(threads: list[int]) -> Iterator[dict[str, Any]]:
    from ggq.runtime.bench import report
    from ggq.runtime.bench.roofline import measured

    for n in threads:
        with measured(n) as roofline:
            for _ in range(4):
                roofline.sample()
            yield report.roofline_row(roofline)


def _rows(args: argparse.Namespace, tests: list[Case]) -> Iterator[dict[str, Any]]:
    from ggq.runtime.bench import report
    from ggq.runtime.bench.measure import bench

    at = ""

    def tell(text: str) -> None:
        if args.progress:
            print(f"{PROG}: benchmark {at}: {text}", file=sys.stderr, flush=True)

    settings = {"repetitions": args.repetitions, "delay": args.delay, "tell": tell}
    with bench(warm_up=not args.no_warmup, **settings) as runner:
        groups = itertools.groupby(enumerate(tests, 1), key=lambda t: t[1].n_threads)
        for threads, group in groups:
            with _limits(threads, args.no_roofline) as roofline:
                for k, case in group:
                    at = f"{k}/{len(tests)}"
                    tell(f"starting {case.name}")
                    result = runner.run(case, roofline)
                    yield report.row(result, runner.model(case), roofline)
                    if args.profile:
                        print(f"\n{case.name}: {runner.profile(case)}", file=sys.stderr)


@contextlib.contextmanager
def _limits(threads: int, unwanted: bool) -> Iterator[Roofline | None]:
    from ggq.runtime.bench.roofline import measured

    if unwanted:
        yield None
        return
    with measured(threads) as roofline:
        yield roofline


if __name__ == "__main__":
    raise SystemExit(main())
