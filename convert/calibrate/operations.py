"""Embedding, norms, matrices, gated activations: forward, and the gradient backward."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ggq.convert.calibrate.batch import Array, Batch, Operation, Rows


class Embed(Operation):
    """out = rows of the table, one per token, times `scale`."""

    def __init__(self, table: str, out: Rows, scale: float) -> None:
        self.tensors, self.writes = (table,), (out,)
        self.table, self.out, self.scale = table, out, scale

    def forward(self, batch: Batch) -> None:
        batch.values[self.out] = batch.weights[self.table][batch.tokens.reshape(-1)] * self.scale

    def backward(self, batch: Batch) -> None:
        """Nothing lies before it."""


def normalize(x: Array, eps: float) -> tuple[Array, Array]:
    """x [..., C] divided by its root mean square, and the factors [..., 1] that did it."""
    squares = np.einsum("...c,...c->...", x, x) / x.shape[-1]
    factors = 1 / np.sqrt(squares + eps)[..., None]
    return x * factors, factors


def normalize_gradient(gradient: Array, normal: Array, factors: Array) -> Array:
    """Gradient of x [..., C] from that of its normalized form."""
    along = np.einsum("...c,...c->...", gradient, normal)[..., None] / normal.shape[-1]
    found: Array = factors * (gradient - normal * along)
    return found


class Norm(Operation):
    """out = RMS norm of x (Zhang and Sennrich 2019, arXiv:1910.07467)."""

    def __init__(self, x: Rows, weight: str, eps: float, out: Rows) -> None:
        self.tensors, self.reads, self.writes = (weight,), (x,), (out,)
        self.x, self.weight, self.eps, self.out = x, weight, eps, out

    def forward(self, batch: Batch) -> None:
        normal, _ = batch.saved[self] = normalize(batch.values[self.x], self.eps)
        batch.values[self.out] = normal * batch.weights[self.weight]

    def backward(self, batch: Batch) -> None:
        gradient = batch.gradients.pop(self.out) * batch.weights[self.weight]
        batch.add_gradient(self.x, normalize_gradient(gradient, *batch.saved.pop(self)))


class AddNorm(Operation):
    """x += RMS norm of y."""

    def __init__(self, y: Rows, weight: str, eps: float, x: Rows) -> None:
        self.tensors, self.reads, self.writes = (weight,), (y, x), (x,)
        self.y, self.weight, self.eps, self.x = y, weight, eps, x

    def forward(self, batch: Batch) -> None:
        normal, _ = batch.saved[self] = normalize(batch.values[self.y], self.eps)
        batch.add_value(self.x, normal * batch.weights[self.weight])

    def backward(self, batch: Batch) -> None:
        gradient = batch.gradients[self.x] * batch.weights[self.weight]
        batch.add_gradient(self.y, normalize_gradient(gradient, *batch.saved.pop(self)))


def mean_squares(x: Array) -> Array:
    """[n, C] -> [n]: mean square of every row."""
    means: Array = np.einsum("nc,nc->n", x, x) / x.shape[1]
    return means


class Linear(Operation):
    """out = x W^T (+ bias), or added to out. `site`: the first of the matrices that share x."""

    def __init__(
        self, x: Rows, name: str, out: Rows, *, adds: bool, bias: str, site: str
    ) -> None:  # fmt: skip
        self.weight, self.bias, self.site = f"{name}.weight", bias, site
        self.tensors = (self.weight, bias) if bias else (self.weight,)
        self.reads, self.writes = (x, out) if adds else (x,), (out,)
        self.x, self.out, self.adds = x, out, adds

    def forward(self, batch: Batch) -> None:
        x = batch.saved[self] = batch.values[self.x]
        if self.site == self.weight:
            batch.watch.inputs(self.weight, x)
        y = x @ batch.weights[self.weight].T
        if self.bias:
            y += batch.weights[self.bias]
        if self.adds:
            batch.add_value(self.out, y)
        else:
            batch.values[self.out] = y

    def backward(self, batch: Batch) -> None:
        gradients = batch.gradients
        gradient = gradients[self.out] if self.adds else gradients.pop(self.out)
        x = batch.saved.pop(self)
        kept = gradient[batch.sampled]
        batch.watch.outputs(self.weight, x, mean_squares(gradient), kept, gradient)
        batch.add_gradient(self.x, gradient @ batch.weights[self.weight])


def silu(x: Array) -> tuple[Array, Callable[[], Array]]:
    """x / (1 + e^-x), and what makes its derivative."""
    sigmoid = np.negative(x)
    with np.errstate(over="ignore"):
        np.exp(sigmoid, out=sigmoid)
    sigmoid += 1
    np.reciprocal(sigmoid, out=sigmoid)
    value = x * sigmoid
    return value, lambda: sigmoid + value * (1 - sigmoid)


def gelu(x: Array) -> tuple[Array, Callable[[], Array]]:
    """x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), and what makes its derivative."""
    factor, cubic = math.sqrt(2 / math.pi), 0.044715
    tanh = x * x
    tanh *= factor * cubic
    tanh += factor
    tanh *= x
    np.tanh(tanh, out=tanh)

    def slope() -> Array:
        inner = factor * (1 + 3 * cubic * x * x)
        made: Array = 0.5 * (1 + tanh) + 0.5 * x * (1 - tanh * tanh) * inner
        return made

    value = tanh + 1
    value *= x
    value *= 0.5
    return value, slope


def gelu_in_halves(x: Array) -> tuple[Array, Callable[[], Array]]:
    """The same as ggml's table has it: half precision in and out for x between -10 and 10."""
    value, slope = gelu(x.astype(np.float16).astype(np.float32))
    value = value.astype(np.float16).astype(np.float32)
    return np.where(np.abs(x) < 10, value, np.maximum(x, 0)), slope


Activation = Callable[[Array], tuple[Array, Callable[[], Array]]]
GATES: dict[str, Activation] = {"silu": silu, "gelu": gelu}
GATES_OF_LLAMA: dict[str, Activation] = {"silu": silu, "gelu": gelu_in_halves}


class Gated(Operation):
    """out = f(gate) * up."""

    def __init__(self, activation: Activation, gate: Rows, up: Rows, out: Rows) -> None:
        self.reads, self.writes = (gate, up), (out,)
        self.activation = activation
        self.gate, self.up, self.out = gate, up, out

    def forward(self, batch: Batch) -> None:
        value, slope = self.activation(batch.values[self.gate])
        up = batch.values[self.up]
        batch.saved[self] = value, slope, up
        batch.values[self.out] = value * up

    def backward(self, batch: Batch) -> None:
        value, slope, up = batch.saved.pop(self)
        gradient = batch.gradients.pop(self.out)
        batch.add_gradient(self.gate, gradient * up * slope())
        batch.add_gradient(self.up, gradient * value)
