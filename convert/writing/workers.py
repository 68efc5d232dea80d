"""Threads that each have a tensor of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from threadpoolctl import threadpool_limits

T = TypeVar("T")
R = TypeVar("R")


def side_by_side(work: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[R]:
    """Results in order; an error, or the end of interest in them, cancels what has not begun.

    numpy's matrix products then use one thread each: with more, those of all workers get in each
    other's way: with two threads the speed was that of one.
    """
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(threads) as pool:
        try:
            yield from pool.map(work, items)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
