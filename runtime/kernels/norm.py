"""Root mean square normalization.  y = x / sqrt(mean(x^2) + eps) * w

Source: Zhang and Sennrich 2019, arXiv:1910.07467.
"""

from __future__ import annotations

from ggq.jit.isa import target
from ggq.jit.lang import (
    Value,
    const,
    f32,
    fma,
    hsum,
    i64,
    load,
    loop,
    sqrt,
    store,
    var,
    zeros,
)
from ggq.runtime.kernels._op import Single, Thread, op


def _parts(cols: Value) -> list[tuple[Value, Value, int]]:
    """(begin, end, lanes): whole vectors, then what is left one by one."""
    lanes = target().lanes
    whole = cols - cols % lanes
    return [(const(i64, 0), whole, lanes), (whole, cols, 0)]


def inverse_rms(x: Value, cols: Value, eps: Value) -> Value:
    """f32 scalar: 1 / sqrt(mean(x^2) + eps) of x f32[cols]."""
    total, rest = var(zeros(f32 * target().lanes)), var(const(f32, 0.0))
    for begin, end, lanes in _parts(cols):
        for i in loop(begin, end, lanes or 1):
            v = load(f32 * lanes, x + i * 4, 4)
            (total if lanes else rest).set(fma(v, v, total if lanes else rest))
    mean = (hsum(total) + rest) / cols.to(f32)
    return const(f32, 1.0) / sqrt(mean + eps)


def normalize(x: Value, weight: Value, cols: Value, eps: Value, out: Value) -> None:
    """out f32[cols] = normalized x * weight; out may be x."""
    scale = inverse_rms(x, cols, eps)
    for begin, end, lanes in _parts(cols):
        for i in loop(begin, end, lanes or 1):
            v = load(f32 * lanes, x + i * 4, 4) * scale * load(f32 * lanes, weight + i * 4, 4)
            store(out + i * 4, v, 4)


@op
def rms_norm(
    t: Thread, x: Value, stride: Value, weight: Value, cols: Value, eps: Single, out: Value,
    out_stride: Value,
) -> None:  # fmt: skip
    """Every token; threads share the tokens."""
    begin, end = t.share_tokens()
    for token in loop(begin, end):
        normalize(x + token * stride, weight, cols, eps, out + token * out_stride)


@op
def rms_norm_last(
    t: Thread, x: Value, stride: Value, weight: Value, cols: Value, eps: Single, out: Value
) -> None:
    """The last token only, by every thread into its own memory."""
    normalize(x + (t.n_tokens - 1) * stride, weight, cols, eps, t.at(out))


@op
def add_rms_norm(
    t: Thread, y: Value, stride: Value, weight: Value, cols: Value, eps: Single, x: Value,
    x_stride: Value,
) -> None:  # fmt: skip
    """x += normalized y * weight, every token: a norm behind a sub-layer."""
    begin, end = t.share_tokens()
    for token in loop(begin, end):
        source, into = y + token * stride, x + token * x_stride
        scale = inverse_rms(source, cols, eps)
        for first, last, lanes in _parts(cols):
            for i in loop(first, last, lanes or 1):
                v = load(f32 * lanes, source + i * 4, 4) * scale
                v = v * load(f32 * lanes, weight + i * 4, 4)
                store(into + i * 4, load(f32 * lanes, into + i * 4, 4) + v, 4)
