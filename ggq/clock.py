"""How long threads were at a job that other threads do other things beside."""

from __future__ import annotations

import threading
import time


class Clock:
    """Runs while threads are inside: `with clock: ...`.

    `seconds`: at least one thread was inside; `thread_seconds`: the sum over all threads.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.thread_seconds = 0.0
        self._lock = threading.Lock()
        self._inside = 0
        self._last = 0.0

    def __enter__(self) -> None:
        self._count(1)

    def __exit__(self, *_: object) -> None:
        self._count(-1)

    def _count(self, change: int) -> None:
        with self._lock:
            now = time.monotonic()
            if self._inside:
                self.seconds += now - self._last
                self.thread_seconds += self._inside * (now - self._last)
            self._last = now
            self._inside += change
