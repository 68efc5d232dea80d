"""Speed of ggq-run beside llama.cpp's: python -m tests.bench.bench_run LLAMA_BENCH MODEL...

Tokens per second of prefill (pp512) and decoding (tg128) on the same file, ours and a native
llama-bench's, in turns; a figure is the median of the rounds, and so is the ratio.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from pathlib import Path

import numpy as np

import ggq
from ggq.runtime.session import Session

PROMPT, ANSWER = 512, 128


def ours(session: Session, n_vocab: int) -> tuple[float, float]:
    """(prefill, decode) tokens per second."""
    ids = np.random.default_rng(0).integers(0, n_vocab, PROMPT).tolist()
    session.rewind(0)
    start = time.perf_counter()
    session.prefill(ids)
    prefill = PROMPT / (time.perf_counter() - start)
    session.rewind(0)
    start = time.perf_counter()
    for token in ids[:ANSWER]:
        session.decode(token)
    return prefill, ANSWER / (time.perf_counter() - start)


def theirs(llama_bench: str, model: Path, threads: int) -> tuple[float, float]:
    """(prefill, decode) tokens per second of one llama-bench run."""
    command = [llama_bench, "-m", str(model), "-t", str(threads), "-p", str(PROMPT)]
    command += ["-n", str(ANSWER), "-r", "1", "-o", "json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    speed = {bool(run["n_gen"]): run["avg_ts"] for run in json.loads(done.stdout)}
    return speed[False], speed[True]


def compare(llama_bench: str, path: Path, threads: int, rounds: int) -> None:
    """Print one line for a model and a number of threads."""
    with ggq.load(path, n_threads=threads) as model:
        session = model.session(PROMPT)
        ours(session, model.hparams.n_vocab)  # compile and warm up
        pairs = [
            (ours(session, model.hparams.n_vocab), theirs(llama_bench, path, threads))
            for _ in range(rounds)
        ]
    figures = np.array(pairs)  # [round, ours or theirs, prefill or decode]
    middle = np.median(figures, axis=0)
    ratio = np.median(figures[:, 0] / figures[:, 1], axis=0)
    cells = [f"{path.name:32} {threads}T"]
    for k, name in enumerate((f"pp{PROMPT}", f"tg{ANSWER}")):
        cells.append(f"{name} {middle[0, k]:8.1f} / {middle[1, k]:8.1f} = {ratio[k]:5.2f}")
    print("   ".join(cells), flush=True)


def main() -> None:
    """Compare every model with one thread and with all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("llama_bench")
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    for model in args.models:
        for threads in args.threads:
            compare(args.llama_bench, model, threads, args.rounds)


if __name__ == "__main__":
    main()
