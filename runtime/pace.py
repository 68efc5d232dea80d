"""How many threads of a team should work while other programs want the cores too.

Threads that meet at barriers are as slow as the one whose core a neighbour has taken. With one
thread fewer the neighbour has a core, and the others are undisturbed: what is lost is a thread, not
half of all. Results do not depend on the number of threads, so it may change with every token.
"""

from __future__ import annotations

import threading
import time

WINDOW = 8  # runs that are looked at together
DISTURBED = 0.15  # share of a run's time that some thread was kept off its core
FIRST_PAUSE, LONGEST_PAUSE = 32, 128  # runs until another number is tried again


class Clocks:
    """The processor time of the calling thread and of `others`, where the system tells it."""

    def __init__(self, others: list[threading.Thread]) -> None:
        self._ids: list[int] = []
        if hasattr(time, "pthread_getcpuclockid"):
            idents = (thread.ident for thread in others)
            self._ids = [time.pthread_getcpuclockid(ident) for ident in idents if ident]

    def read(self, count: int) -> list[float]:
        """Seconds that each of the first `count` threads has run; fewer where it is not told."""
        return [time.thread_time(), *map(time.clock_gettime, self._ids[: count - 1])]


class Pace:
    """Chooses among 1 to `most` threads by the times of runs that are alike.

    A disturbed window lets it try one thread fewer, and later one more; it stays with what was
    quicker, and tries again after pauses that grow as long as nothing changes.
    """

    def __init__(self, most: int) -> None:
        self.count = most
        self._most = most
        self._settled = most  # the number to go back to if a trial is no better
        self._best = 0.0  # seconds of a window with it
        self._pause = FIRST_PAUSE
        self._wait = 0  # runs until the next trial
        self._seconds: list[float] = []
        self._kept_off: list[float] = []

    def note(self, seconds: float, kept_off: float) -> None:
        """A run took so long, and its most disturbed thread was off its core that share of it."""
        self._wait = max(0, self._wait - 1)
        self._seconds.append(seconds)
        self._kept_off.append(kept_off)
        if len(self._seconds) < WINDOW:
            return
        took, kept_off = sum(self._seconds), sum(self._kept_off) / WINDOW
        self._seconds.clear()
        self._kept_off.clear()
        if self.count != self._settled:
            self._judge(took)
        elif not self._wait:
            self._try(took, kept_off)

    def _judge(self, took: float) -> None:
        if took < self._best:
            self._settled, self._pause = self.count, FIRST_PAUSE
        else:
            self.count, self._pause = self._settled, min(2 * self._pause, LONGEST_PAUSE)
        self._wait = self._pause

    def _try(self, took: float, kept_off: float) -> None:
        if kept_off > DISTURBED and self.count > 1:
            self.count -= 1
        elif self.count < self._most:
            self.count += 1
        else:
            self._pause = FIRST_PAUSE
        self._best = took
