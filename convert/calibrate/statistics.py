"""What calibration knows about one matrix: moments of its inputs, gradients of its outputs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class TensorStatistics:
    """Inputs x [tokens, C] of a matrix W [R, C] over the calibration text.

    The first position of a sequence often holds a sink token, whose inputs are larger than all
    others by orders of magnitude. It is kept apart, as few rows whose Gram matrix is small enough:
    `first_rows` f32 [n, C], already scaled so that their Gram has at most 4 times the trace of
    `gram`. Add `first` to `gram` to use both; damping goes by the mean diagonal of `gram` alone.

    `square` f32 [C]: mean of x^2 over all `count` tokens, what an importance matrix holds.
    `mean` f32 [C]: mean of x over all tokens.
    `gram` f32 [C, C]: mean of x x^T over positions above 0, rows longer than 16 times the median
    squared norm shortened to that.
    `guided` f32 [C, C]: the same, of x weighted by the mean square of the gradient at this matrix'
    outputs (capped at 16 times its mean) instead of shortened; `guided_first_rows` belong to it.
    `outputs`, f32 [n, n] each: mean of g g^T of the gradients g at the outputs, tokens weighted by
    their inputs; the diagonal blocks of [R, R], none for the head.
    `inputs` f32 [n, C] and `gradients` f32 [n, R]: sampled tokens, x and the gradient of the
    negative log probability of a next token drawn from the model's own distribution, so that
    mean((g . dW x)^2) / 2 estimates the KL divergence that a change dW of the weights causes.
    `embedded` i32 [n] and `embedded_gradients` f32 [n, C]: of a head that is the embedding table
    too, the rows that sampled tokens are, and the gradients there.
    """

    columns: int
    count: int
    square: F32
    mean: F32
    gram: F32
    first_rows: F32
    guided: F32 | None = None
    guided_first_rows: F32 | None = None
    outputs: tuple[F32, ...] = ()
    inputs: F32 | None = None
    gradients: F32 | None = None
    embedded: npt.NDArray[np.int32] | None = None
    embedded_gradients: F32 | None = None

    @property
    def first(self) -> F32:
        """f32 [C, C]: Gram matrix of `first_rows`, to be added to `gram`."""
        return self.first_rows.T @ self.first_rows

    @property
    def guided_first(self) -> F32 | None:
        """f32 [C, C]: Gram matrix of `guided_first_rows`, to be added to `guided`."""
        rows = self.guided_first_rows
        return None if rows is None else rows.T @ rows

    @property
    def hessian(self) -> F32:
        """f32 [C, C]: a new array, `gram` + `first`."""
        total = self.first
        total += self.gram
        return total

    @property
    def guided_hessian(self) -> F32 | None:
        """f32 [C, C]: a new array, `guided` + `guided_first`."""
        total = self.guided_first
        if total is None or self.guided is None:
            return None
        total += self.guided
        return total

    def fisher_cost(self, change: F32) -> float:
        """KL divergence per token, in nats, that adding `change` f32 [R, C] to W would cause.

        Second order, from the sampled tokens. Raises ValueError without gradients.
        """
        if self.inputs is None or self.gradients is None:
            raise ValueError("calibrated without gradients; nothing is known about the outputs")
        effects = np.einsum("tr,tr->t", self.gradients, self.inputs @ change.T)
        return float(np.mean(np.square(effects, dtype=np.float64)) / 2)


def proxy(error: F32, hessian: F32) -> float:
    """tr(E H E^T) of `error` f32 [R, C] and `hessian` f32 [C, C], squared outputs per token."""
    return float(np.einsum("rc,rc->", error @ hessian, error, dtype=np.float64))
