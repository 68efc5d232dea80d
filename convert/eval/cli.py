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
    from ggq.convert.eval.evaluate import Record
    from ggq.convert.eval.sources import LogitSource, ModelLogits

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
    add("files", metavar="FILE", nargs="*", help="GGUF files to measure")
    add(
        "--reference",
        metavar="REF",
        help="what they are held against: GGUF file, model directory, or a base file",
    )
    add("--text", "-f", metavar="FILE", nargs="+", default=[], help="texts, UTF-8; each a domain")
    add("--ctx-size", "-c", metavar="N,...", type=_numbers, default=[512],
        help="tokens of a chunk; default 512")  # fmt: skip
    add("--chunks", metavar="N", type=_count, default=0, help="of each text; default all")
    add(
        "--exact",
        action="store_true",
        help="do not round activations: the files' error without the runtime's",
    )
    add("--threads", "-t", metavar="N", type=_count, default=0, help="default: all cores")
    add(
        "--workdir",
        metavar="DIR",
        help="keep the results of every chunk there; the same command goes on from them",
    )
    add("--save-base", metavar="OUT", help="keep what the reference says, small and exact")
    add(
        "--save-llama-base",
        metavar="OUT",
        help="the same in the form of llama-perplexity --kl-divergence-base",
    )
    add("--html", metavar="OUT.html", help="write a page with tables and plots")
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
    _check(args)
    texts = _texts(args.text)

    from ggq.atomic import check_target, write_whole
    from ggq.convert.eval.page import page
    from ggq.convert.eval.reference import open_reference
    from ggq.convert.eval.report import FileFacts, report_of, tables
    from ggq.convert.eval.run import measure
    from ggq.convert.eval.sources import opened
    from ggq.runtime.hub import find_model

    for out in filter(None, (args.html, args.save_base, args.save_llama_base)):
        check_target(Path(out))
    how = {"exact": args.exact, "threads": args.threads}
    with ExitStack() as stack:
        candidates = [stack.enter_context(opened(find_model(name), **how)) for name in args.files]
        if args.reference:
            opening = open_reference(args.reference, candidates, **how)
            reference, bound = stack.enter_context(opening)
        else:
            reference, bound = candidates[0], []
        chunks = _chunks(args, texts, reference, bound)
        measured = measure(
            reference, candidates, chunks, **how, shown=not args.quiet,
            workdir=Path(args.workdir) if args.workdir else None,
            record=_recorder(args, stack, reference, chunks),
        )  # fmt: skip
        errors = _tensor_errors(args, candidates, reference) if args.html else {}
        facts = [
            FileFacts.of(name, source.model.reader)
            for name, source in zip(args.files, candidates, strict=True)
        ]
    if facts:
        report = report_of(measured, facts, args.reference, args.exact)
        if args.html:
            write_whole(Path(args.html), page(report, measured, errors).encode())
        print(json.dumps(report, indent=1) if args.json else tables(report), end="\n" * args.json)
    return 0


def _tensor_errors(
    args: argparse.Namespace, candidates: list[ModelLogits], reference: LogitSource
) -> dict[str, dict[str, float]]:
    from ggq.convert.eval.sources import ModelLogits
    from ggq.convert.eval.tensor_errors import tensor_errors

    if not args.reference or not isinstance(reference, ModelLogits):
        return {}
    wanted = reference.model.tensors
    return {
        name: tensor_errors(source.model.tensors, wanted)
        for name, source in zip(args.files, candidates, strict=True)
    }


def _check(args: argparse.Namespace) -> None:
    saving = args.save_base or args.save_llama_base
    if not args.files and not (args.reference and saving):
        raise UsageError("no file to measure; name one, or a --reference to keep with --save-base")
    if len(set(args.files)) < len(args.files):
        raise UsageError("a file is named twice; name each once")
    if saving and not args.reference:
        raise UsageError("only what a reference says is kept; name it with --reference")
    if args.save_base and args.save_llama_base:
        raise UsageError("--save-base and --save-llama-base exclude each other; run twice")


def _recorder(
    args: argparse.Namespace, stack: ExitStack, reference: LogitSource, chunks: list[Chunks]
) -> Record | None:
    from ggq.convert.eval.llama_base import LlamaBaseWriter
    from ggq.convert.eval.sources import ModelLogits
    from ggq.convert.eval.state_base import StateBaseWriter

    if not (args.save_base or args.save_llama_base):
        return None
    if not isinstance(reference, ModelLogits):
        raise UsageError(f"{args.reference} is a base file itself; name the model it was made of")
    if args.save_base:
        return stack.enter_context(StateBaseWriter(Path(args.save_base), chunks, reference))
    if len(chunks) > 1:
        raise UsageError("a base file of llama-perplexity holds one text and context; name one")
    path = Path(args.save_llama_base)
    return stack.enter_context(LlamaBaseWriter(path, chunks[0], reference.n_vocab))


def _texts(names: list[str]) -> dict[str, str]:
    """Domain -> text."""
    texts: dict[str, str] = {}
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


def _chunks(
    args: argparse.Namespace, texts: dict[str, str], reference: LogitSource, bound: list[Chunks]
) -> list[Chunks]:
    from ggq.convert.eval.chunks import chunks_of
    from ggq.convert.eval.sources import ModelLogits

    if bound and texts:
        raise UsageError(f"{args.reference} brings its own text; leave --text away")
    if bound:
        return bound
    if not texts:
        raise UsageError("no text to measure on; name one or more with --text")
    assert isinstance(reference, ModelLogits)
    return [
        chunks_of(reference.model.tokenizer, text, n_ctx, args.chunks, domain)
        for n_ctx in dict.fromkeys(args.ctx_size)
        for domain, text in texts.items()
    ]


if __name__ == "__main__":
    sys.exit(main())
