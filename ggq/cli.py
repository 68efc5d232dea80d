"""The command `ggq`: look into GGUF files."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ggq.cli_support import Parser, run

PROG = "ggq"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and give its exit code."""
    return run(lambda: _run(argv), PROG)


def _run(argv: Sequence[str] | None) -> int:
    arguments = _parser().parse_args(argv)
    if arguments.command == "info":
        _info(arguments)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        PROG, "Look into GGUF files. See also ggq-convert, ggq-export, ggq-run and ggq-bench."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    text = "show the metadata, tokenizer, tensors, types and bits per weight of a file"
    info = commands.add_parser("info", help=text, description=text.capitalize() + ".")
    info.add_argument("file", metavar="FILE", help="a GGUF file, or any shard of one")
    info.add_argument("--json", action="store_true", help="print one JSON object")
    info.add_argument("--full", action="store_true", help="with --json, do not cut long arrays")
    info.add_argument(
        "--header-only", action="store_true", help="accept a file whose tensor data is absent"
    )
    return parser


def _info(arguments: argparse.Namespace) -> None:
    import json

    from ggq.info import describe, render
    from ggq.reader import Reader

    with Reader(arguments.file, header_only=arguments.header_only) as reader:
        report = describe(reader, full=arguments.full)
    print(json.dumps(report, allow_nan=False) if arguments.json else render(report))


if __name__ == "__main__":
    raise SystemExit(main())
