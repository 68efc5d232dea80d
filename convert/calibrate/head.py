"""The output head: logits, and gradients of the log probability of a token drawn from them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ggq.convert.calibrate.batch import Array, Batch, Indices, Operation, Rows
from ggq.convert.calibrate.operations import mean_squares

LOGIT_BYTES = 1 << 27  # logits made at a time
_BLOCK = 512  # tokens of the vocabulary summed before one of them is chosen


class Head(Operation):
    """out = x W^T, with `cap` c tanh(logit / c); the whole vocabulary for few tokens at a time.

    `backward` starts with no gradient of `out`: it draws a token y from the softmax p of every
    row, so that the gradient of -log p(y) has the Fisher information as its covariance.
    """

    def __init__(self, x: Rows, name: str, out: Rows, cap: float) -> None:
        self.weight = f"{name}.weight"
        self.tensors, self.reads, self.writes = (self.weight,), (x,), (out,)
        self.x, self.out, self.cap = x, out, cap

    def forward(self, batch: Batch) -> None:
        batch.saved[self] = batch.values[self.x]
        batch.watch.inputs(self.weight, batch.values[self.x])

    def logits(self, batch: Batch) -> Array:
        """[tokens, V] after `forward`."""
        return self._capped(batch.values[self.x] @ batch.weights[self.weight].T)

    def backward(self, batch: Batch) -> None:
        matrix, x = batch.weights[self.weight], batch.saved.pop(self)
        backward = np.empty_like(x)
        squares = np.empty(len(x), x.dtype)
        kept = []
        for part in self._parts(len(x), matrix):
            logits = self._capped(x[part] @ matrix.T)
            slope = 1 - np.square(logits / self.cap) if self.cap else None
            gradient = sampled_gradient(logits, batch.random)
            if slope is not None:
                gradient *= slope
            squares[part] = mean_squares(gradient)
            backward[part] = gradient @ matrix
            kept.append(gradient[_within(batch.sampled, part)])
        batch.watch.outputs(self.weight, x, squares, np.concatenate(kept))
        batch.add_gradient(self.x, backward)

    def _capped(self, logits: Array) -> Array:
        return self.cap * np.tanh(logits / self.cap) if self.cap else logits

    def _parts(self, count: int, matrix: Array) -> Iterator[slice]:
        step = max(1, LOGIT_BYTES // (4 * len(matrix)))
        for start in range(0, count, step):
            yield slice(start, min(start + step, count))


def _within(tokens: Indices, part: slice) -> Indices:
    first, last = np.searchsorted(tokens, [part.start, part.stop])
    return np.asarray(tokens[first:last] - part.start)


def sampled_gradient(logits: Array, random: np.random.Generator) -> Array:
    """[n, V] -> softmax minus one at a token drawn from it; overwrites `logits`."""
    logits -= logits.max(axis=1, keepdims=True)
    p = np.exp(logits, out=logits)
    starts = np.arange(0, p.shape[1], _BLOCK)
    blocks = np.cumsum(np.add.reduceat(p, starts, axis=1), axis=1, dtype=np.float64)
    at = random.random(len(p)) * blocks[:, -1]
    p /= blocks[:, -1:].astype(p.dtype)
    for row in range(len(p)):
        block = min(int(np.searchsorted(blocks[row], at[row], side="right")), len(starts) - 1)
        before = blocks[row, block - 1] if block else 0.0
        inside = np.cumsum(p[row, starts[block] : starts[block] + _BLOCK], dtype=np.float64)
        left = (at[row] - before) / blocks[row, -1]
        chosen = min(int(np.searchsorted(inside, left, side="right")), len(inside) - 1)
        p[row, starts[block] + chosen] -= 1
    return p
