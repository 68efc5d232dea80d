"""ggq-export: write a GGUF model as a Hugging Face directory in F32."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path

from ggq.cli_support import Parser, printable, run
from ggq.convert.cli_options import size

PROG = "ggq-export"


def main() -> int:
    """Run the tool and give its exit code."""
    return run(lambda: _export(_parser().parse_args()), PROG)


def _parser() -> Parser:
    parser = Parser(PROG, "Write a GGUF model as a Hugging Face directory, weights in F32.")
    add = parser.add_argument
    add("model", metavar="MODEL.gguf", help="the file, or any shard of a model")
    add("out_dir", metavar="OUT_DIR", help="directory to make; an earlier export is replaced")
    add("--max-shard-size", metavar="N(K|M|G)", type=size, help="largest file; default 5G")
    add("--quiet", "-q", action="store_true", help="no progress")
    return parser


def _export(args: argparse.Namespace) -> int:
    from ggq.convert.export.model_dir import SHARD_BYTES, export

    begin = time.monotonic()
    nbytes = export(
        Path(args.model),
        Path(args.out_dir),
        shard_bytes=args.max_shard_size or SHARD_BYTES,
        progress=not args.quiet,
    )
    line = (
        f"{PROG}: {args.out_dir}: {nbytes / 1e6:,.1f} MB in F32; {time.monotonic() - begin:.1f} s; "
        f"try it: ggq-convert {shlex.quote(args.out_dir)} OUT.gguf --type q4_k"
    )
    print(printable(line), file=sys.stderr)
    return 0
