"""A mixture of experts: the router's choice, and the gradient through what was chosen."""

from __future__ import annotations

import numpy as np

from ggq.convert.calibrate.batch import Array, Batch, Indices, Operation, Rows
from ggq.convert.calibrate.operations import mean_squares, silu


def route(logits: Array, used: int) -> tuple[Indices, Array]:
    """[T, experts] -> the `used` largest, i64 [T, used], and their softmax [T, used].

    Of equals the first, as the runtime chooses.
    """
    chosen = np.argsort(-logits, axis=1, kind="stable")[:, :used]
    best = np.take_along_axis(logits, chosen, axis=1)
    weights = np.exp(best - best[:, :1])
    weights /= weights.sum(axis=1, keepdims=True)
    return chosen, weights


class Experts(Operation):
    """out += weighted sum of down(silu(gate x) * up x) of the experts the router's logits pick.

    The stacks are `{name}_gate_exps.weight` and up [experts, F, D], and down [experts, D, F].
    """

    def __init__(self, x: Rows, router: Rows, name: str, used: int, out: Rows) -> None:
        self.gate, self.up, self.down = (
            f"{name}_{part}_exps.weight" for part in ("gate", "up", "down")
        )
        self.tensors = self.gate, self.up, self.down
        self.reads, self.writes = (x, router, out), (out,)
        self.x, self.router, self.used, self.out = x, router, used, out

    def forward(self, batch: Batch) -> None:
        x = batch.values[self.x]
        chosen, weights = route(batch.values[self.router], self.used)
        total = np.zeros_like(batch.values[self.out])
        saved = []
        for expert in np.unique(chosen):
            tokens, places = np.nonzero(chosen == expert)
            own = x[tokens]
            batch.watch.inputs(self.gate, own, tokens, int(expert))
            gate, slope = silu(own @ batch.weights[self.gate][expert].T)
            up = own @ batch.weights[self.up][expert].T
            hidden = gate * up
            batch.watch.inputs(self.down, hidden, tokens, int(expert))
            y = hidden @ batch.weights[self.down][expert].T
            total[tokens] += weights[tokens, places, None] * y
            saved.append((int(expert), tokens, places, gate, slope, up, y))
        batch.saved[self] = x, weights, saved
        batch.add_value(self.out, total)

    def backward(self, batch: Batch) -> None:
        x, weights, saved = batch.saved.pop(self)
        gradient = batch.gradients[self.out]
        in_x, in_weights = np.zeros_like(x), np.empty_like(weights)
        in_logits = np.zeros_like(batch.values[self.router])
        chosen = np.empty(weights.shape, np.int64)
        for expert, tokens, places, gate, slope, up, y in saved:
            outer = gradient[tokens]
            in_weights[tokens, places] = np.einsum("td,td->t", outer, y)
            chosen[tokens, places] = expert
            outer = outer * weights[tokens, places, None]
            self._watch(batch, self.down, gate * up, outer, tokens, expert)
            hidden = outer @ batch.weights[self.down][expert]
            own, in_own = x[tokens], np.zeros((len(tokens), x.shape[1]), x.dtype)
            for tensor, part in ((self.gate, hidden * up * slope()), (self.up, hidden * gate)):
                self._watch(batch, tensor, own, part, tokens, expert)
                in_own += part @ batch.weights[tensor][expert]
            in_x[tokens] += in_own
        mean = np.sum(weights * in_weights, axis=1, keepdims=True)
        np.put_along_axis(in_logits, chosen, weights * (in_weights - mean), axis=1)
        batch.add_gradient(self.router, in_logits)
        batch.add_gradient(self.x, in_x)

    def _watch(
        self, batch: Batch, tensor: str, x: Array, gradient: Array, tokens: Indices, expert: int
    ) -> None:
        kept = gradient[np.isin(tokens, batch.sampled)]
        batch.watch.outputs(tensor, x, mean_squares(gradient), kept, gradient, tokens, expert)
