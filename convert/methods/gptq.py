"""Error feedback with the full Hessian.

Scales are fixed first; then the columns are rounded one after the other, the most used first, each
taking up what the ones before lost (Frantar et al. 2022, arXiv 2210.17323); then single codes are
improved while that helps.
"""

from __future__ import annotations

import numpy as np

from ggq.blocks import BlockType
from ggq.convert.grids import grid_of, word_grid_of
from ggq.convert.methods._base import F32, U8, Method, Needs, Options, Prepared, Statistics
from ggq.convert.methods._metric import Metric
from ggq.convert.methods._rounding import Rounding
from ggq.convert.methods._word_rounding import WordRounding
from ggq.convert.methods.imatrix import fitted


class Gptq(Method):
    """Static scales, columns in the order of use, coordinate descent."""

    name = "gptq"
    needs = Needs.HESSIAN

    def covers(self, type: BlockType) -> bool:
        return grid_of(type) is not None or word_grid_of(type) is not None

    def _prepare(self, stats: Statistics | None, options: Options) -> Prepared:
        assert stats is not None
        gram, first = self._hessians(stats)
        metric = Metric(gram + first, float(np.diagonal(gram).mean()))
        return Prepared(options, metric.diagonal, metric)

    def _hessians(self, stats: Statistics) -> tuple[F32, F32]:
        """(of all positions but the first, of the first)"""
        return stats.gram, stats.first

    def quantize(self, w: F32, type: BlockType, prepared: Prepared, *, threads: int = 0) -> U8:
        assert prepared.metric is not None
        importance = prepared.metric.diagonal
        if word_grid_of(type):
            start = type.quantize(w, importance, threads=threads)
        else:
            start = fitted(w, type, importance, threads)
        return self.improve(w, start, type, prepared, threads)

    def improve(self, w: F32, start: U8, type: BlockType, prepared: Prepared, threads: int) -> U8:
        """u8[R, row_bytes] that stand for w f32[R, C] -> ones that cost no more, row by row."""
        options, metric = prepared.options, prepared.metric
        grid, words = grid_of(type), word_grid_of(type)
        assert metric is not None
        bits = type.bits_per_weight
        damping = damping_for(bits) if options.damping is None else options.damping
        if words:
            return WordRounding(words, metric, damping, options.sweeps).improve(w, start, threads)
        assert grid is not None
        return Rounding(grid, metric, damping, options.sweeps).improve(w, start, threads)


def damping_for(bits: float) -> float:
    """Share of the mean diagonal, for a type of that many bits a weight.

    Larger errors need more: the sample's Hessian underrates them. Measured on SmolLM2: .05 and .10
    beat .01 at two bits, .01 serves at four.
    """
    return 0.01 if bits >= 4 else 0.05 if bits >= 3 else 0.10
