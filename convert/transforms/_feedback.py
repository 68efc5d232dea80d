"""What a fold does to matrices that a method with error feedback will round.

Feedback changes what counts: a column whose inputs the others predict may be rounded badly, since
these take up its error. What is left of it is the squared diagonal of the factor that feedback goes
by, and with it the cost of a fold is a sum over columns that needs no tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ggq.convert.calibrate.statistics import TensorStatistics
from ggq.convert.methods import Method, Needs, Options, covering
from ggq.convert.methods.gptq import damping_for
from ggq.convert.transforms._channels import Axis
from ggq.convert.transforms._fold import Change, Fold
from ggq.convert.transforms._objective import Reader, rounded

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
ROWS = 64  # of a reader's that are rounded by the method itself
LARGEST_COLUMNS = 8192  # wider matrices' Hessians are too dear to be folded and factored often
TRIAL = Options(sweeps=1)


@dataclass(frozen=True, eq=False)
class FedReader:
    """A reader whose weights `method` will round with feedback.

    `diagonal` and `remaining` f32[C]: what an error costs in a column before and after feedback;
    `row_weights` f32[r] go with them.
    """

    reader: Reader
    method: Method
    stats: TensorStatistics
    diagonal: F32
    remaining: F32
    row_weights: F32

    def costs(self, fold: Fold) -> F64:
        """f64[C]: what each column costs under a fold, its inputs' rounding included."""
        reader, type = self.reader, self.reader.type
        change = fold.of(reader.tensor, Axis.COLUMNS, reader.matrix) or Change()
        importance = np.ascontiguousarray(change.of_inputs(self.diagonal, 2), np.float32)
        w = np.ascontiguousarray(change.apply(reader.w), np.float32)
        error = type.dequantize(type.quantize(w, importance, threads=1)) - w
        own = self.row_weights @ np.square(error) * change.of_inputs(self.remaining, 2)
        x = np.ascontiguousarray(change.of_inputs(reader.search.x), np.float32)
        noise = reader.search.weights @ np.square(rounded(x, type) - x) / len(x)
        of_inputs = noise * (reader.row_weights @ np.square(w))
        return np.asarray(own + of_inputs, np.float64)

    def error(self, fold: Fold) -> float:
        """Weighted mean squared error of some outputs on the tokens held out, by the method."""
        reader = self.reader
        some = slice(None, None, -(-len(reader.w) // ROWS))
        change = fold.of(reader.tensor, Axis.COLUMNS, reader.matrix) or Change()
        stack = fold.statistics(reader.tensor, self.stats, reader.matrix)
        prepared = self.method.prepare(stack, TRIAL)
        w = np.ascontiguousarray(change.apply(reader.w[some]), np.float32)
        method = covering(self.method, reader.type)
        rows = method.quantize(w, reader.type, prepared, threads=1)
        tokens = reader.held_out
        inputs = rounded(np.ascontiguousarray(change.of_inputs(tokens.x), np.float32), reader.type)
        off = inputs @ reader.type.dequantize(rows).T - tokens.wanted[:, some]
        weights = reader.row_weights[some]
        share = reader.row_weights.sum() / max(float(weights.sum()), 1e-30)
        return float(tokens.weights @ np.square(off) @ weights) / len(off) * float(share)


def has_feedback(method: Method | None) -> bool:
    """Whether a method goes by a Hessian."""
    return method is not None and method.needs >= Needs.HESSIAN


def fed_reader(reader: Reader, method: Method, stats: TensorStatistics) -> FedReader | None:
    """The reader with what feedback leaves; None where that is too dear to find out."""
    if stats.columns > LARGEST_COLUMNS:
        return None
    metric = method.prepare(stats, TRIAL).metric
    if metric is None:
        return None
    row_weights = reader.row_weights
    if method.needs == Needs.GRADIENTS and stats.gradients is not None:
        # The Hessian has the mean row's weight in it already.
        rows = stats.gradients.shape[1] / len(row_weights)
        row_weights = row_weights / max(float(row_weights.mean()), 1e-30) * np.float32(rows)
    bare = replace(stats, inputs=None, gradients=None)
    remaining = metric.remaining(damping_for(reader.type.bits_per_weight))
    return FedReader(
        reader, method, bare, metric.diagonal, remaining, row_weights.astype(np.float32)
    )
