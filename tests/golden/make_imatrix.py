"""Writes imatrix/*: what llama-imatrix says of tiny models on tests/data/moby-dick.txt.

    python -m tests.golden.make_imatrix LLAMA_IMATRIX

Made with llama.cpp 0c1e570. Keys and values are kept as singles, so that only the order of sums
differs from an exact pass.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.models import TINY

HERE = Path(__file__).parent
TEXT = HERE.parent / "data" / "moby-dick.txt"
FILES = ("llama3.gguf", "gemma3.gguf", "qwen3moe.gguf", "qwen3moe.dat")
CONTEXT = "64"


def main(llama_imatrix: str) -> None:
    """Run it for every file."""
    with TemporaryDirectory() as folder:
        for file in FILES:
            name, _, suffix = file.partition(".")
            model = TINY[name].write_gguf(Path(folder, f"{name}.gguf"))
            command = [llama_imatrix, "-m", model, "-f", "text.txt", "-o", HERE / "imatrix" / file]
            command += ["--output-format", suffix, "--process-output", "--no-ppl", "-t", "1"]
            command += ["-c", CONTEXT, "-b", CONTEXT, "-ub", CONTEXT]
            command += ["-fa", "off", "-ctk", "f32", "-ctv", "f32"]
            Path(folder, "text.txt").write_bytes(TEXT.read_bytes())
            subprocess.run(command, check=True, cwd=folder, capture_output=True)


if __name__ == "__main__":
    main(sys.argv[1])
