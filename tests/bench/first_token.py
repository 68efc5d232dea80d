"""From the start of the process to the first text, beside llama-completion, in turns.

    python -m tests.bench.first_token --llama-completion PATH [MODEL]

Both load the model (SmolLM2 unless given), render its chat template, read the prompt and write one
token after the other; the clock stops at the first byte on stdout. One run of each goes before.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

from tests import oracles

PROMPT = "Why is the sky blue?"
TOKENS = 8


def main() -> None:
    """Take turns and print medians."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("model", nargs="?", type=Path, metavar="MODEL")
    installed = Path(sys.executable).parent / "ggq-run"
    p.add_argument("--ggq-run", type=Path, default=installed, help=f"default: {installed.name}")
    p.add_argument("--llama-completion", type=Path, required=True)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--rounds", type=int, default=20)
    args = p.parse_args()
    model = args.model or oracles.smollm2()
    common = ["-p", PROMPT, "-n", TOKENS, "--temp", 0, "-t", args.threads]
    commands = {
        "ggq-run": [args.ggq_run, model, *common],
        "llama-completion": [
            args.llama_completion, "-m", model, *common, "-st", "--jinja", "--no-display-prompt",
        ],
    }  # fmt: skip
    for command in commands.values():
        first_text(command)
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(args.rounds):
        for name, command in commands.items():
            seconds[name].append(first_text(command))
    for name, each in seconds.items():
        print(f"{name:18} {statistics.median(each):.3f} s ({min(each):.3f} to {max(each):.3f})")
    ours, theirs = seconds.values()
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    print(f"llama-completion takes {statistics.median(ratios):.2f} times as long")


def first_text(command: list[object]) -> float:
    """Seconds until the process has written something to stdout."""
    begin = time.monotonic()
    with subprocess.Popen(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        found = process.stdout.read(1)
        seconds = time.monotonic() - begin
        process.stdout.read()
    if not found or process.returncode:
        raise SystemExit(f"{command[0]} ended with {process.returncode} and wrote {found!r}")
    return seconds


if __name__ == "__main__":
    main()
