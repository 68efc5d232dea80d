"""What a user sees while kernels are compiled."""

from __future__ import annotations

import sys
from typing import Any


class CompileProgress:
    """Says once that kernels are compiled, and how far that is: a bar on a terminal."""

    def __init__(self, prog: str) -> None:
        self._prog = prog
        self._bar: Any = None
        self._told = False

    def __call__(self, done: int, total: int) -> None:
        """So many of `total` kernels are compiled."""
        if not self._told:
            text = "compiling kernels for this processor, once; they are kept for the next start"
            print(f"{self._prog}: {text}", file=sys.stderr, flush=True)
            self._told = True
        if not sys.stderr.isatty():
            return
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(total=total, unit=" kernels", mininterval=0, file=sys.stderr)
        self._bar.update(done - self._bar.n)
        if done == total:
            self._bar.close()
            self._bar = None
