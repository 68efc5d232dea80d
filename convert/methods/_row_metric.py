"""What errors of a matrix' rows cost together: the second moments of its outputs' gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ggq.convert.methods._metric import F32, I64, upper_factor

TOGETHER = 32  # rows that are rounded side by side


@dataclass(frozen=True)
class RowBlock:
    """Rows `rows` i64[B], rounded side by side after those `before` them.

    Errors e of rows before move their target by -`feedback` f32[n, B]^T e. In later sweeps those of
    all `others` i64[m] move it by -`pull` f32[m, B]^T e.
    """

    rows: I64
    before: I64
    feedback: F32
    others: I64
    pull: F32


class RowMetric:
    """G f32[R, R] in diagonal blocks; weight errors E cost tr(G E H E^T).

    A model's loss is about such a form (Martens and Grosse 2015, arXiv:1503.05671); that rounding
    should heed both factors is of Tseng et al. 2025, arXiv:2505.22988.
    """

    def __init__(self, blocks: tuple[F32, ...], damping: float) -> None:
        self.count = sum(len(block) for block in blocks)
        starts = np.cumsum([0, *(len(block) for block in blocks)])
        self.blocks = [
            part
            for start, block in zip(starts, blocks, strict=False)
            for part in _row_blocks(block, int(start), damping)
        ]


def _row_blocks(gradients: F32, start: int, damping: float) -> list[RowBlock]:
    """Neighbours, which are alike, come into different blocks: in one they could not help."""
    n = len(gradients)
    count = -(-n // TOGETHER)
    parts = [np.arange(first, n, count) for first in range(count)]
    order = np.concatenate(parts)
    metric = gradients[np.ix_(order, order)].astype(np.float64)
    unit = float(np.diagonal(metric).mean())
    if not unit > 0:
        return [_alone(part + start) for part in parts]
    metric[np.diag_indices(n)] += damping * unit
    upper = upper_factor(metric, unit)
    made = []
    ends = np.cumsum([0, *map(len, parts)])
    for part, first, last in zip(parts, ends, ends[1:], strict=False):
        own = slice(first, last)
        rest = np.r_[0:first, last:n]
        feedback = upper[:first, own] @ np.linalg.inv(upper[own, own])
        pull = np.linalg.solve(metric[own, own], metric[own][:, rest]).T
        rows, before, others = part + start, order[:first] + start, order[rest] + start
        made.append(RowBlock(rows, before, _f32(feedback), others, _f32(pull)))
    return made


def _alone(rows: I64) -> RowBlock:
    none = np.zeros((0, len(rows)), np.float32)
    return RowBlock(rows, rows[:0], none, rows[:0], none)


def _f32(x: npt.NDArray[Any]) -> F32:
    return np.ascontiguousarray(x, np.float32)
