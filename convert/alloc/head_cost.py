"""What an error of the output matrix costs: its logits shift by dz = dW x, so the divergence is
half the variance of dz under the model's own probabilities, to second order.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ggq.convert.sources.tensor_source import TensorSource

F32 = npt.NDArray[np.float32]
Errors = Callable[[int, int], F32]  # of rows start .. stop, f32[stop - start, C]

TOKENS = 256
ROWS = 4096


class HeadCost:
    """Probabilities of a sample of tokens under `tensor`, the output matrix [V, C].

    `inputs` f32[n, C]: what the matrix gets. Memory: 4 V bytes a token, three times.
    """

    def __init__(self, tensor: TensorSource, inputs: F32) -> None:
        step = max(1, len(inputs) // TOKENS)
        self._inputs = np.ascontiguousarray(inputs[::step][:TOKENS])
        self._tensor = tensor
        logits = self._logits(tensor.floats)
        logits -= logits.max(axis=1, keepdims=True)
        np.exp(logits, out=logits)
        logits /= logits.sum(axis=1, keepdims=True)
        self._probabilities = logits

    def cost(self, errors: Errors) -> float:
        """Nats a token that errors of the weights cost."""
        shift = self._logits(errors)
        weighted = self._probabilities * shift
        mean = weighted.sum(axis=1, dtype=np.float64)
        square = np.einsum("tv,tv->t", weighted, shift, dtype=np.float64)
        return float(np.mean(square - mean * mean) / 2)

    def _logits(self, weights: Errors) -> F32:
        """f32[tokens, V]: x W^T."""
        rows, group = self._tensor.n_rows, self._tensor.group
        out = np.empty((len(self._inputs), rows), np.float32)
        step = max(1, ROWS // group) * group
        for start in range(0, rows, step):
            stop = min(rows, start + step)
            out[:, start:stop] = self._inputs @ weights(start, stop).T
        return out
