"""`guided` in which rows take up each other's errors too (Tseng et al. 2025, arXiv:2505.22988).

Gradients at the outputs of a matrix point mostly the same ways. What one row's rounding does along
these, other rows undo.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ggq.blocks import BlockType
from ggq.convert.methods._base import F32, U8, Options, Prepared, Statistics
from ggq.convert.methods._row_metric import RowMetric
from ggq.convert.methods.guided import Guided

DAMPING = 1.0  # of the mean diagonal; the gradients of few tokens promise more than they keep
SWEEPS = 1  # over all rows, after the first time


class Yaqa(Guided):
    """Rows are rounded some at a time, each towards where the errors before it would have it."""

    name = "yaqa"
    simpler = "guided"
    whole = True

    def _prepare(self, stats: Statistics | None, options: Options) -> Prepared:
        prepared = super()._prepare(stats, options)
        assert stats is not None
        rows = RowMetric(stats.outputs, DAMPING) if stats.outputs else None
        return replace(prepared, rows=rows)

    def quantize(self, w: F32, type: BlockType, prepared: Prepared, *, threads: int = 0) -> U8:
        metric = prepared.rows
        if metric is None or metric.count != len(w) or not np.isfinite(w).all():
            return super().quantize(w, type, prepared, threads=threads)
        out = np.empty((len(w), w.shape[1] // type.weights * type.nbytes), np.uint8)
        errors = np.zeros_like(w)
        for block in metric.blocks:
            target = w[block.rows] - block.feedback.T @ errors[block.before]
            out[block.rows] = super().quantize(target, type, prepared, threads=threads)
            errors[block.rows] = type.dequantize(out[block.rows]) - w[block.rows]
        for _ in range(SWEEPS):
            for block in metric.blocks:
                target = w[block.rows] - block.pull.T @ errors[block.others]
                old = out[block.rows]
                out[block.rows] = self.improve(target, old, type, prepared, threads)
                errors[block.rows] = type.dequantize(out[block.rows]) - w[block.rows]
        return out
