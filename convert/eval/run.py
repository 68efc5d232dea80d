"""A whole run: several files, texts and contexts against one reference."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ggq.convert.eval.chunks import Chunks
from ggq.convert.eval.divergences import Divergences
from ggq.convert.eval.evaluate import Record, compare_chunks
from ggq.convert.eval.results import Results
from ggq.convert.eval.sources import LogitSource


@dataclass(frozen=True)
class Measured:
    """One text at one context length; `divergences` has one entry per file."""

    domain: str
    n_ctx: int
    n_chunks: int
    divergences: list[Divergences]


def measure(
    reference: LogitSource, candidates: Sequence[LogitSource], texts: Sequence[Chunks],
    *, exact: bool, threads: int = 0, workdir: Path | None = None, record: Record | None = None,
    shown: bool = False,
) -> list[Measured]:  # fmt: skip
    """Measure `candidates` on all `texts`; those of one context length also together, as "all".

    `workdir` keeps every chunk's results, and chunks that are there are not measured again.
    `shown`: progress on stderr.
    """
    identities = [source.identity for source in (reference, *candidates)]
    kept = [Results(workdir, identities, chunks, exact) for chunks in texts]
    todo = [range(len(c)) if record else r.missing for c, r in zip(texts, kept, strict=True)]
    with _Progress(sum(map(len, todo)), shown) as progress:
        for chunks, results, numbers in zip(texts, kept, todo, strict=True):
            found = compare_chunks(reference, candidates, chunks, numbers, threads, record)
            for number, parts in zip(numbers, found, strict=True):
                results.add(number, parts)
                progress.advance([float(part.kld.mean()) for part in parts])
    measured = [
        Measured(
            chunks.domain,
            chunks.n_ctx,
            len(chunks),
            [Divergences.of(results.parts(i)) for i in range(len(candidates))],
        )
        for chunks, results in zip(texts, kept, strict=True)
    ]
    return measured + _together(measured)


def _together(measured: list[Measured]) -> list[Measured]:
    """All texts of one context length as one, where there are several."""
    found = []
    for n_ctx in dict.fromkeys(m.n_ctx for m in measured):
        same = [m for m in measured if m.n_ctx == n_ctx]
        if len(same) > 1:
            joined = [
                Divergences.joined(d) for d in zip(*(m.divergences for m in same), strict=True)
            ]
            found.append(Measured("all", n_ctx, sum(m.n_chunks for m in same), joined))
    return found


class _Progress:
    """Chunks done and the mean divergences so far: a bar on a terminal, else a line every tenth."""

    def __init__(self, total: int, shown: bool) -> None:
        self._total, self._shown = total, shown and total > 0
        self._done = 0
        self._sums: np.ndarray[Any, Any] | None = None
        self._begin = time.monotonic()
        self._bar: Any = None
        if self._shown and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, unit=" chunks", file=sys.stderr)

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self, klds: list[float]) -> None:
        """One more chunk, with the mean divergence of each file."""
        self._done += 1
        self._sums = np.array(klds) + (0 if self._sums is None else self._sums)
        means = " ".join(f"{total / self._done:.4g}" for total in self._sums)
        if self._bar is not None:
            self._bar.set_postfix_str(f"mean KLD {means}")
            self._bar.update(1)
        elif self._shown and 10 * self._done // self._total > 10 * (self._done - 1) // self._total:
            seconds = (time.monotonic() - self._begin) / self._done
            left = seconds * (self._total - self._done)
            line = f"{self._done} of {self._total} chunks, {left:,.0f} s left, mean KLD {means}"
            print(f"measuring: {line}", file=sys.stderr, flush=True)
