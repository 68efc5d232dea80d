"""Causal attention over the KV cache: softmax(q k^T * scale) v, grouped heads, sliding windows.

Scores are kept in the thread's own memory, f32 [queries][positions]; sums are singles.
Layout of the cache: heads.py. Source: Vaswani et al. 2017, equation 1; grouped heads
arXiv:2305.13245; sliding windows arXiv:2004.05150.
"""

from __future__ import annotations

from functools import cache

from ggq.blocks._frame import tile_tokens
from ggq.jit.isa import target
from ggq.jit.lang import (
    Value,
    Var,
    const,
    f32,
    fma,
    hmax,
    hsum,
    i32,
    i64,
    load,
    loop,
    maximum,
    select,
    splat,
    store,
    u16,
    var,
    zeros,
)
from ggq.runtime.kernels._math import exp
from ggq.runtime.kernels._op import Op, Single, Thread
from ggq.runtime.kernels.heads import KEY_BLOCK

_MASKED = -1e30
_VALUE_VECTORS = 4  # vectors of a value row summed at once


class _Queries:
    """`count` queries of one head at consecutive positions, against one head of the cache."""

    def __init__(self, count: int, q: Value, stride: Value, position: Value, dims: Value) -> None:
        self.count, self.q, self.stride, self.position, self.dims = count, q, stride, position, dims

    def query(self, k: int, dim: Value) -> Value:
        """Broadcast q[k][dim]."""
        return splat(load(f32, self.q + self.stride * k + dim * 4, 4), target().lanes)


def _attend(
    n: _Queries, keys: Value, values: Value, window: Value, scale: Value, scores: Value,
    row_bytes: Value, out: Value, out_stride: Value,
) -> None:  # fmt: skip
    last = n.position + (n.count - 1)
    start = maximum(n.position - window + 1, const(i64, 0))
    first_block, end_block = start // KEY_BLOCK, last // KEY_BLOCK + 1
    peaks = _scores(n, keys, window, scale, scores, row_bytes, first_block, end_block)
    inverse = []
    for k in range(n.count):
        row, peak = scores + row_bytes * k, splat(hmax(peaks[k]), target().lanes)
        total = var(zeros(f32 * target().lanes))
        for i in loop(first_block * KEY_BLOCK, end_block * KEY_BLOCK, target().lanes):
            weight = exp(load(f32 * target().lanes, row + i * 4, 4) - peak)
            # A masked score underflows to the smallest weight; make it exactly nothing.
            masked = load(f32 * target().lanes, row + i * 4, 4) <= _MASKED
            weight = select(masked, zeros(weight.type), weight)
            store(row + i * 4, weight, 4)
            total += weight
        inverse.append(const(f32, 1.0) / hsum(total))
    _weighted_values(n, values, scores, row_bytes, start, last + 1, inverse, out, out_stride)


def _scores(
    n: _Queries, keys: Value, window: Value, scale: Value, scores: Value, row_bytes: Value,
    first_block: Value, end_block: Value,
) -> list[Var]:  # fmt: skip
    """Write masked scores of whole key blocks; running maxima of every query."""
    lanes = target().lanes
    peaks = [var(const(f32 * lanes, _MASKED)) for _ in range(n.count)]
    # One query alone needs several sums per vector to keep the multipliers busy.
    chains = 4 if n.count == 1 else 1
    for block in loop(first_block, end_block):
        base = keys + block * n.dims * (2 * KEY_BLOCK)
        for part in range(0, KEY_BLOCK, lanes):
            sums = [[var(zeros(f32 * lanes)) for _ in range(chains)] for _ in range(n.count)]
            for d in loop(0, n.dims, chains):
                for c in range(chains):
                    at = base + (d + c) * (2 * KEY_BLOCK) + 2 * part
                    key = target().half_to_single(load(u16 * lanes, at, 2))
                    for k in range(n.count):
                        sums[k][c].set(fma(n.query(k, d + c), key, sums[k][c]))
            here = splat((block * KEY_BLOCK + part).to(i32), lanes) + const(
                i32 * lanes, range(lanes)
            )
            for k in range(n.count):
                own = (n.position + k).to(i32)
                score = sums[k][0].value
                for other in sums[k][1:]:
                    score = score + other
                visible = (here <= own) & (here > own - window.to(i32))
                score = select(visible, score * scale, const(f32 * lanes, _MASKED))
                store(scores + row_bytes * k + (block * KEY_BLOCK + part) * 4, score, 4)
                peaks[k].set(maximum(peaks[k], score))
    return peaks


def _weighted_values(
    n: _Queries, values: Value, scores: Value, row_bytes: Value, start: Value, end: Value,
    inverse: list[Value], out: Value, out_stride: Value,
) -> None:  # fmt: skip
    lanes = target().lanes
    together = min(n.count, 4)
    wide = _VALUE_VECTORS * lanes
    whole = n.dims - n.dims % wide
    for group in range(0, n.count, together):
        for begin, stop, vectors, width in (
            (const(i64, 0), whole, _VALUE_VECTORS, lanes),
            (whole, n.dims, 1, 4),
        ):
            for d in loop(begin, stop, vectors * width):
                sums = [[var(zeros(f32 * width)) for _ in range(vectors)] for _ in range(together)]
                for p in loop(start, end):
                    at = values + (p * n.dims + d) * 2
                    rows = [
                        target().half_to_single(load(u16 * width, at + 2 * width * j, 2))
                        for j in range(vectors)
                    ]
                    for k in range(together):
                        weight = load(f32, scores + row_bytes * (group + k) + p * 4, 4)
                        for j in range(vectors):
                            sums[k][j].set(fma(splat(weight, width), rows[j], sums[k][j]))
                for k in range(together):
                    row = out + out_stride * (group + k) + d * 4
                    for j in range(vectors):
                        store(row + 4 * width * j, sums[k][j] * inverse[group + k], 4)


@cache
def attend(one_token: bool) -> Op:
    """out[t, h] = attention of query head h; with one token the threads share the heads."""

    def body(
        t: Thread, q: Value, q_stride: Value, n_head: Value, n_head_kv: Value, dims: Value,
        scale: Single, window: Value, keys: Value, values: Value, ctx: Value, scores: Value,
        out: Value, out_stride: Value,
    ) -> None:  # fmt: skip
        count = 1 if one_token else tile_tokens()
        scores, row_bytes = t.at(scores), ctx * 4
        tiles = (t.n_tokens + (count - 1)) // count
        begin, end, step = t.index, tiles * n_head, t.count
        if one_token:
            begin, end, step = *t.share(n_head), const(i64, 1)
        # Later tiles see more positions: dealing tiles out in turn keeps threads even.
        for task in loop(begin, end, step):
            head, first = task % n_head, task // n_head * count
            own = head // (n_head // n_head_kv)
            at = first * q_stride + head * dims * 4
            queries = _Queries(count, q + at, q_stride, t.position + first, dims)
            keys_of_head = keys + own * ctx * dims * 2
            values_of_head = values + own * ctx * dims * 2
            into = out + first * out_stride + head * dims * 4
            _attend(queries, keys_of_head, values_of_head, window, scale, scores, row_bytes, into,
                    out_stride)  # fmt: skip

    return Op(f"attend.{'one' if one_token else 'all'}", body)
