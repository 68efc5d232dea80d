"""Write one small model over and over in forked children that die: run as a program, prints JSON.

    python -m tests.killed_writer JOB FOLDER {single,shards}

Jobs: `calls` kills the child at its n-th system call, for every n; `times` at random moments;
`limits` gives it a file size limit instead, for every kind of size.
Each result says what was in FOLDER after the death and after the next, undisturbed write.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ggq.blocks import by_name
from ggq.cli_support import run
from ggq.metadata import Metadata
from ggq.shards import Split
from ggq.spec import TensorInfo, ValueType
from ggq.writer import Writer

CALLS = ["open", "write", "fsync", "replace", "ftruncate", "unlink", "close"]
RANDOM_KILLS = 40


def write(folder: Path, split: Split | None) -> None:
    """m.gguf or its shards, 40 KB, in chunks of 3,000 bytes."""
    metadata = Metadata()
    metadata.set("general.architecture", "llama", ValueType.STRING)
    tensors = [TensorInfo(f"t{i}", (5, 512), by_name("F32")) for i in range(4)]
    with Writer(folder / "m.gguf", metadata, tensors, split=split) as writer:
        for tensor in tensors:
            data = tensor.name.encode() * (tensor.nbytes // 2)
            for start in range(0, len(data), 3000):
                writer.write(tensor.name, data[start : start + 3000])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def child(body: Callable[[], int | None]) -> int:
    """Process that runs `body` and exits with its result."""
    process = os.fork()
    if process == 0:
        code = 99
        try:
            code = body() or 0
        finally:
            os._exit(code)
    return process


def die_at_call(n: int, before: bool) -> None:
    seen = 0

    def wrap(name: str) -> None:
        original = getattr(os, name)

        def deadly(*args: Any, **kwargs: Any) -> Any:
            nonlocal seen
            seen += 1
            if seen == n and before:
                os.kill(os.getpid(), signal.SIGKILL)
            result = original(*args, **kwargs)
            if seen == n:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        setattr(os, name, deadly)

    for name in CALLS:
        wrap(name)


def observe(status: int, folder: Path, whole: dict[str, bytes], split: Split | None) -> Any:
    """How the child ended and what it left, before and after the next write."""
    left = contents(folder)
    visible = [name for name in left if not name.startswith(".")]
    write(folder, split)
    return {
        "exit": os.waitstatus_to_exitcode(status),
        "visible": sorted(visible),
        "hidden": len(left) - len(visible),
        "complete": all(left[name] == whole[name] for name in visible),
        "sound_after_next_write": contents(folder) == whole,
    }


def seconds_to_write(folder: Path, split: Split | None) -> float:
    start = time.perf_counter()
    write(folder, split)
    return time.perf_counter() - start


def main() -> None:
    job, folder, split = sys.argv[1], Path(sys.argv[2]), None
    if sys.argv[3] == "shards":
        split = Split(max_tensors=1)
    write(folder, split)
    whole = contents(folder)
    results = []

    def attempt(body: Callable[[], int | None], kill_after: float | None = None) -> Any:
        for path in folder.iterdir():
            path.unlink()
        process = child(body)
        if kill_after is not None:
            time.sleep(kill_after)
            os.kill(process, signal.SIGKILL)
        results.append(observe(os.waitpid(process, 0)[1], folder, whole, split))
        return results[-1]

    if job == "calls":
        for before in (True, False):
            for n in range(1, 1000):

                def doomed(n: int = n, before: bool = before) -> None:
                    die_at_call(n, before)
                    write(folder, split)

                if attempt(doomed)["exit"] == 0:
                    break
    elif job == "times":
        usual = min(seconds_to_write(folder, split) for _ in range(5))
        moments = random.Random(1)
        for _ in range(RANDOM_KILLS):
            attempt(lambda: write(folder, split), moments.uniform(0, 1.5 * usual))
    else:
        for limit in range(0, max(map(len, whole.values())), 1777):

            def limited(limit: int = limit) -> int:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
                return run(lambda: write(folder, split), "writer")

            attempt(limited)
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
