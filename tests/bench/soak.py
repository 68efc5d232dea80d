"""Random prompts in several processes, beside busy neighbours: python -m tests.bench.soak MODEL

Every process has all prompts, in an order and with a number of threads of its own, and sessions
that are new or have had other texts before. All must say the same, to the last bit of the logits,
and none may come to hold more memory, threads or files than it had after its first prompts.
A long soak can be done in parts: --first tells the number of a part's first prompt.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import cycle, islice
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import numpy as np
from tqdm import tqdm

import ggq

LONGEST = 600  # tokens of a prompt: more than one batch
SEED = 20


@dataclass(frozen=True)
class Job:
    """What one process does: `new_tokens` greedy tokens after each of `prompts` prompts.

    They are the longest prompt and those from number `first` on.
    """

    model: str
    number: int
    threads: int
    prompts: int
    new_tokens: int
    first: int = 1


@dataclass(frozen=True)
class Usage:
    """What a process holds: anonymous memory and all memory in bytes, threads, open files."""

    anonymous: int
    resident: int
    threads: int
    files: int


@dataclass(frozen=True)
class Result:
    """Of a job: text and digest of the logits by prompt, and what it held after each prompt."""

    job: Job
    texts: dict[int, tuple[str, str]]
    usage: list[Usage]


def prompt(index: int, n_vocab: int) -> list[int]:
    """Random tokens: the longest prompt first, then 1, 2, 3, ... and lengths of every magnitude."""
    rng = np.random.default_rng([SEED, index])
    length = round(LONGEST ** rng.random())
    if index < 20:
        length = index or LONGEST
    return [int(token) for token in rng.integers(n_vocab, size=length)]


def order(job: Job) -> list[int]:
    """The longest prompt first, that all memory there is use for is used from then on."""
    others = np.arange(job.first, job.first + job.prompts - 1)
    others = np.random.default_rng([SEED, job.number]).permutation(others)
    return [0, *map(int, others)]


def work(job: Job) -> Result:
    """Answer all prompts."""
    texts, usage = {}, []
    n_ctx = LONGEST + job.new_tokens
    with ggq.load(job.model, n_threads=job.threads) as model:
        old = model.session(n_ctx)
        bar = tqdm(order(job), f"{job.threads} threads", position=job.number, disable=None)
        for turn, index in enumerate(bar):
            session = model.session(n_ctx) if turn % 2 else old
            session.rewind(0)
            digest, tokens = hashlib.sha256(), []
            logits = session.prefill(prompt(index, model.hparams.n_vocab))
            for _ in range(job.new_tokens):
                digest.update(logits.tobytes())
                tokens.append(int(logits.argmax()))
                logits = session.decode(tokens[-1])
            texts[index] = model.detokenize(tokens, special=True), digest.hexdigest()
            usage.append(_usage())
    return Result(job, texts, usage)


def _usage() -> Usage:
    with open("/proc/self/smaps_rollup") as file:
        kilobytes = {line.split(":")[0]: line.split()[1] for line in file if " kB" in line}
    return Usage(
        int(kilobytes["Anonymous"]) << 10, int(kilobytes["Rss"]) << 10,
        threading.active_count(), len(list(Path("/proc/self/fd").iterdir())),
    )  # fmt: skip


def differences(results: Sequence[Result]) -> list[str]:
    """A line for every prompt that a process answers otherwise than the first one does."""
    first = results[0]
    return [
        f"prompt {index}: {first.job.threads} threads say {wanted!r}, "
        f"process {other.job.number} with {other.job.threads} says {other.texts.get(index)!r}"
        for other in results[1:]
        for index, wanted in first.texts.items()
        if other.texts.get(index) != wanted
    ]


def growth(result: Result, allowed: int) -> list[str]:
    """A line for all of what a process holds more in the last third than in the second.

    `allowed` bytes of memory; not one thread or file.
    """
    third = len(result.usage) // 3
    found = []
    for name in ("anonymous", "resident", "threads", "files"):
        held = [getattr(usage, name) for usage in result.usage]
        before, after = median(held[third : 2 * third]), median(held[2 * third :])
        if after - before > (allowed if name in ("anonymous", "resident") else 0):
            where = f"process {result.job.number} with {result.job.threads} threads"
            found.append(f"{where}: {name} grows from {before:,.0f} to {after:,.0f}")
    return found


@contextlib.contextmanager
def neighbours(count: int) -> Iterator[None]:
    """So many processes that do nothing but spin."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for each in busy:
            each.kill()
            each.wait()


def soak(jobs: Sequence[Job], hogs: int, work: Callable[[Job], Result] = work) -> list[Result]:
    """Do all jobs at once, each in a process of its own."""
    with neighbours(hogs), ProcessPoolExecutor(len(jobs), get_context("spawn")) as processes:
        return list(processes.map(work, jobs))


def main() -> int:
    """Report what was found; 1 if it is not what it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--prompts", type=int, default=1000)
    parser.add_argument("--first", type=int, default=1, help="number of the first prompt")
    parser.add_argument("--new-tokens", type=int, default=16)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--threads", default="1,2,3,4", help="of the processes, in turns")
    parser.add_argument("--hogs", type=int, default=1, help="neighbours that spin")
    parser.add_argument("--grow", type=float, default=4.0, help="MB a process may grow")
    args = parser.parse_args()
    threads = islice(cycle(map(int, args.threads.split(","))), args.processes)
    results = soak(
        [
            Job(args.model, i, n, args.prompts, args.new_tokens, args.first)
            for i, n in enumerate(threads)
        ],
        args.hogs,
    )
    faults = differences(results)
    for result in results:
        last = result.usage[-1]
        print(
            f"{result.job.threads} threads: {len(result.texts)} prompts, "
            f"{last.anonymous / 1e6:.1f} MB anonymous, {last.resident / 1e6:.1f} MB resident"
        )
        faults += growth(result, int(args.grow * 1e6))
    print(*faults, f"{len(faults)} faults", sep="\n")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
