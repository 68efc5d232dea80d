"""Gated activations: h = f(gate) * up, with f = SiLU or GELU in its tanh form.

Source: Shazeer 2020, arXiv:2002.05202; GELU: Hendrycks and Gimpel, arXiv:1606.08415.
"""

from __future__ import annotations

from collections.abc import Callable

from ggq.jit.isa import target
from ggq.jit.lang import Value, f32, load, loop, splat, store
from ggq.runtime.kernels._math import exp, tanh
from ggq.runtime.kernels._op import Op, Single, Thread, op


def silu(x: Value) -> Value:
    """x / (1 + e^-x)."""
    return x / (exp(-x) + 1.0)


def gelu(x: Value) -> Value:
    """x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))."""
    inner = (x * x * 0.044715 + 1.0) * x * 0.7978845608028654
    return x * 0.5 * (tanh(inner) + 1.0)


def _gate(f: Callable[[Value], Value], gate: Value, up: Value, out: Value, cols: Value) -> None:
    lanes = target().lanes
    for i in loop(0, cols, lanes):
        g, u = (load(f32 * lanes, a + i * 4, 4) for a in (gate, up))
        store(out + i * 4, f(g) * u, 4)


def _gated(name: str, f: Callable[[Value], Value]) -> tuple[Op, Op]:
    """(one token, every thread for itself; all tokens)."""

    def one(t: Thread, gate: Value, up: Value, out: Value, cols: Value) -> None:
        _gate(f, gate, up, t.at(out), cols)

    def all_tokens(
        t: Thread, gate: Value, up: Value, out: Value, cols: Value, stride: Value
    ) -> None:
        begin, end = t.share_tokens()
        for token in loop(begin, end):
            at = token * stride
            _gate(f, gate + at, up + at, out + at, cols)

    return Op(f"{name}.one", one), Op(f"{name}.all", all_tokens)


GATED = {"silu": _gated("silu", silu), "gelu": _gated("gelu", gelu)}


@op
def softcap(t: Thread, y: Value, stride: Value, cols: Value, cap: Single) -> None:
    """y = cap * tanh(y / cap), every token. Rows are padded to whole vectors."""
    begin, end = t.share_tokens()
    for token in loop(begin, end):
        for i in loop(0, cols, target().lanes):
            at = y + token * stride + i * 4
            store(at, tanh(load(f32 * target().lanes, at, 4) / splat(cap, target().lanes)) * cap, 4)
