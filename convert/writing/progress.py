"""How far a conversion is: a bar on a terminal, a line every tenth otherwise. Always on stderr."""

from __future__ import annotations

import sys
import time
from types import TracebackType


class Progress:
    """Counts weights up to `total`. A context manager; silent unless `shown`."""

    def __init__(self, total: int, shown: bool, doing: str = "converting") -> None:
        self._total = max(1, total)
        self._done = 0
        self._tenths = 0
        self._shown = shown
        self._doing = doing
        self._begin = time.monotonic()
        self._bar = None
        if shown and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(
                total=total, desc=doing, unit=" weights", unit_scale=True, file=sys.stderr
            )

    def advance(self, weights: int) -> None:
        """Count `weights` more."""
        self._done += weights
        if self._bar is not None:
            self._bar.update(weights)
            return
        tenths = 10 * self._done // self._total
        if self._shown and tenths > self._tenths:
            self._tenths = tenths
            rate = self._done / max(1e-9, time.monotonic() - self._begin)
            left = (self._total - self._done) / rate
            line = f"{10 * tenths:3d} %, {rate / 1e6:,.1f} M weights/s, {left:,.0f} s left"
            print(f"{self._doing}: {line}", file=sys.stderr, flush=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()


class Share:
    """Shows the share done of a job that knows nothing else; call it with 0 to 1."""

    def __init__(self, doing: str, shown: bool) -> None:
        self._doing = doing
        self._shown = shown
        self._begin = time.monotonic()
        self._tenths = 0

    def __call__(self, done: float) -> None:
        tenths = int(10 * done + 1e-9)
        if self._shown and tenths > self._tenths:
            self._tenths = tenths
            left = (time.monotonic() - self._begin) * (1 - done) / max(done, 1e-9)
            line = f"{self._doing}: {10 * tenths:3d} %, {left:,.0f} s left"
            print(line, file=sys.stderr, flush=True)
