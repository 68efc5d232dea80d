"""ggq-eval: how far a file is from the model it was made from."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from ggq.cli_support import Parser, run
from ggq.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from ggq.convert.eval.chunks import Chunks
    from ggq.convert.eval.sources import ModelLogits
    from ggq.runtime.tokenizer import Tokenizer

PROG = "ggq-eval"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool and give its exit code."""
    return run(lambda: _run(_parser().parse_args(argv)), PROG)


def _parser() -> Parser:
    parser = Parser(
        PROG,
        "Measure perplexity, and beside a reference how far the predictions are from its own.",
        epilog="Texts are cut and scored as llama-perplexity does: chunks of -c tokens, of which "
        "the second half is scored. KLD is the Kullback-Leibler divergence from the reference in "
        "nats, Δp how much likelier a file finds the text's token. Errors are standard errors; "
        "further files are compared with the first token by token.",
    )
    add = parser.add_argument
    add("files", metavar="FILE", nargs="+", help="GGUF files to measure")
    add("--reference", metavar="REF", help="GGUF file they are held against")
    add("--text", "-f", metavar="FILE", nargs="+", default=[], help="texts, UTF-8; each a domain")
    add("--ctx-size", "-c", metavar="N,...", type=_numbers, default=[512],
        help="tokens of a chunk; default 512")  # fmt: skip
    add("--chunks", metavar="N", type=_count, default=0, help="of each text; default all")
    add(
        "--exact",
        action="store_true",
        help="do not round activations to bytes: the files' error without the runtime's",
    )
    add("--threads", "-t", metavar="N", type=_count, default=0, help="default: all cores")
    add(
        "--workdir",
        metavar="DIR",
        help="keep the results of every chunk there; the same command goes on from them",
    )
    add("--json", action="store_true", help="print all figures as JSON")
    add("--quiet", "-q", action="store_true", help="no progress")
    return parser


def _numbers(text: str) -> list[int]:
    return [_count(part) for part in text.split(",")]


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1 << 24:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {1 << 24:,}")
    return int(text)


def _run(args: argparse.Namespace) -> int:
    texts = _texts(args.text)
    if len(set(args.files)) < len(args.files):
        raise UsageError("a file is named twice; name each once")

    from ggq.convert.eval.report import FileFacts, report_of, tables
    from ggq.convert.eval.run import measure
    from ggq.convert.eval.sources import opened
    from ggq.runtime.hub import find_model

    with ExitStack() as stack:

        def logits_of(name: str) -> ModelLogits:
            source = opened(find_model(name), exact=args.exact, threads=args.threads)
            return stack.enter_context(source)

        candidates = [logits_of(name) for name in args.files]
        reference = logits_of(args.reference) if args.reference else candidates[0]
        measured = measure(
            reference, candidates, _chunks(args, texts, reference.model.tokenizer),
            exact=args.exact, threads=args.threads, shown=not args.quiet,
            workdir=Path(args.workdir) if args.workdir else None,
        )  # fmt: skip
        facts = [
            FileFacts.of(name, source.model.reader)
            for name, source in zip(args.files, candidates, strict=True)
        ]
    report = report_of(measured, facts, args.reference, args.exact)
    print(json.dumps(report, indent=1) if args.json else tables(report), end="\n" * args.json)
    return 0


def _texts(names: list[str]) -> dict[str, str]:
    """Domain -> text."""
    if not names:
        raise UsageError("no text to measure on; name one or more with --text")
    texts = {}
    for name in names:
        path = Path(name)
        if not path.is_file():
            raise NotFoundError(f"{name}: there is no such text")
        domain = path.stem if path.stem not in texts else name
        if domain in texts:
            raise UsageError(f"{name}: this text is named twice; name it once")
        try:
            texts[domain] = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise UsageError(
                f"{name}: not UTF-8 at byte {error.start:,}; convert it first"
            ) from None
    return texts


def _chunks(args: argparse.Namespace, texts: dict[str, str], tokenizer: Tokenizer) -> list[Chunks]:
    from ggq.convert.eval.chunks import chunks_of

    return [
        chunks_of(tokenizer, text, n_ctx, args.chunks, domain)
        for n_ctx in dict.fromkeys(args.ctx_size)
        for domain, text in texts.items()
    ]


if __name__ == "__main__":
    sys.exit(main())
