"""Work shared by threads; kernels release the interpreter lock."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


def in_parallel(work: Callable[[int], None], items: range, threads: int) -> None:
    """Do the work for every item; an error of one ends the others."""
    affinity = getattr(os, "sched_getaffinity", None)
    threads = threads or (len(affinity(0)) if affinity else os.cpu_count() or 1)
    if threads == 1 or len(items) <= 1:
        for item in items:
            work(item)
        return
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(work, items):
            pass
