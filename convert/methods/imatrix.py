"""Scales by wide searches and least squares, a weight's error counted by its column's mean square.

Against llama.cpp's quantizers: both signs of a scale are tried, super-scales are fitted together
against the numbers that are stored, integer scales are searched with the codes rounded anew, and no
factor is there that was found by trial.
"""

from __future__ import annotations

import numpy as np

from ggq.blocks import BlockType
from ggq.convert.grids import grid_of, word_grid_of
from ggq.convert.methods._base import F32, U8, Method, Needs, Prepared
from ggq.convert.methods._metric import Metric
from ggq.convert.methods._parallel import in_parallel
from ggq.convert.methods._scale_fit import fit, kernels
from ggq.convert.methods._word_rounding import WordRounding
from ggq.jit import prepare

SWEEPS = 3  # over the words of a codebook
_ROWS = 64  # a thread takes at a time


class Imatrix(Method):
    """Never loses more, by importance, than llama.cpp's quantizer."""

    name = "imatrix"
    needs = Needs.SQUARES

    def covers(self, type: BlockType) -> bool:
        return grid_of(type) is not None or word_grid_of(type) is not None

    def quantize(self, w: F32, type: BlockType, prepared: Prepared, *, threads: int = 0) -> U8:
        assert prepared.importance is not None
        return fitted(w, type, prepared.importance, threads)


def fitted(w: F32, type: BlockType, importance: F32, threads: int) -> U8:
    """f32[R, C], importance f32[C] -> u8[R, row_bytes]"""
    start = type.quantize(w, importance, threads=threads)
    words = word_grid_of(type)
    if words:
        uncorrelated = Metric(np.diag(importance), float(importance.mean()))
        return WordRounding(words, uncorrelated, 0.0, SWEEPS).improve(w, start, threads)
    grid = grid_of(type)
    assert grid is not None
    prepare(kernels(grid))
    out = np.empty_like(start)

    def rows(first: int) -> None:
        part = slice(first, first + _ROWS)
        h = np.broadcast_to(importance, w[part].shape)
        out[part] = grid.pack(fit(grid, w[part], h, grid.unpack(start[part])))

    in_parallel(rows, range(0, len(w), _ROWS), threads)
    return out
