"""Causal attention of grouped heads: norms of heads, rotary positions, window, soft cap.

Scores are made for some queries at a time, so that they stay in the processor's cache; on the way
back they are made again from queries, keys and the logarithm of the softmax' sum
(Dao et al. 2022, arXiv:2205.14135).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ggq.convert.calibrate.batch import Array, Batch, Operation, Rows
from ggq.convert.calibrate.operations import normalize, normalize_gradient

_NEIGHBOURS = slice(0, None, 2), slice(1, None, 2)
_QUERIES = 128  # positions whose scores are made at a time
_UNSEEN = np.triu(np.full((_QUERIES, _QUERIES), -np.inf, np.float32), 1)


@dataclass(frozen=True)
class AttentionShape:
    """`window` positions are seen, 0: all; scores s become cap tanh(s / cap), 0: they stay.

    `neox`: rotary pairs are half a head apart, else neighbours.
    """

    heads_q: int
    heads_kv: int
    dims: int
    neox: bool
    scale: float
    window: int = 0
    softcap: float = 0.0
    eps: float = 0.0


class Attention(Operation):
    """out [T, H * Dh] from projections q [T, H * Dh], k and v [T, Hkv * Dh].

    `table` [positions, dims]: cosines of the rotary angles, then sines.
    """

    def __init__(
        self, q: Rows, k: Rows, v: Rows, out: Rows, shape: AttentionShape, table: Array,
        q_norm: str, k_norm: str,
    ) -> None:  # fmt: skip
        self.tensors = tuple(name for name in (q_norm, k_norm) if name)
        self.reads, self.writes = (q, k, v), (out,)
        self.out, self.shape, self.table = out, shape, table
        self.norms = q_norm, k_norm

    def forward(self, batch: Batch) -> None:
        n, dims, saved = self.shape, self.shape.dims, []
        heads = []
        for rows, norm in zip(self.reads, (*self.norms, ""), strict=True):
            x = batch.values[rows].reshape(*batch.tokens.shape, -1, dims)
            normal = factors = None
            if norm:
                normal, factors = normalize(x, n.eps)
                x = normal * batch.weights[norm]
            saved.append((normal, factors))
            heads.append(x if rows is self.reads[2] else self._rotated(x))
        q, k, v = (np.ascontiguousarray(x.swapaxes(1, 2)) for x in heads)
        q *= n.scale
        out = np.empty_like(q)
        sums = np.empty(q.shape[:-1], q.dtype)
        for sequence, head in np.ndindex(q.shape[0], n.heads_kv):
            group = self._group(head)
            out[sequence, group], sums[sequence, group] = _attend(
                q[sequence, group], k[sequence, head], v[sequence, head], n
            )
        batch.saved[self] = saved, (q, k, v, out, sums)
        batch.values[self.out] = out.swapaxes(1, 2).reshape(batch.tokens.size, -1)

    def backward(self, batch: Batch) -> None:
        n, dims = self.shape, self.shape.dims
        saved, (q, k, v, out, sums) = batch.saved.pop(self)
        gradient = batch.gradients.pop(self.out).reshape(*batch.tokens.shape, n.heads_q, dims)
        gradient = np.ascontiguousarray(gradient.swapaxes(1, 2))
        found = np.empty_like(q), np.zeros_like(k), np.zeros_like(v)
        for sequence, head in np.ndindex(q.shape[0], n.heads_kv):
            own, group = (sequence, head), (sequence, self._group(head))
            _attend_backward(
                (q[group], k[own], v[own], out[group], sums[group]), gradient[group],
                (found[0][group], found[1][own], found[2][own]), n,
            )  # fmt: skip
        for rows, norm, (normal, factors), x in zip(
            self.reads, (*self.norms, ""), saved, found, strict=True
        ):
            x = x.swapaxes(1, 2)
            if rows is not self.reads[2]:
                x = self._rotated(x, back=True)
            if norm:
                x = normalize_gradient(x * batch.weights[norm], normal, factors)
            batch.add_gradient(rows, x.reshape(batch.tokens.size, -1))

    def _group(self, head: int) -> slice:
        size = self.shape.heads_q // self.shape.heads_kv
        return slice(head * size, (head + 1) * size)

    def _rotated(self, x: Array, *, back: bool = False) -> Array:
        """[S, T, H, dims] turned by each position's angles, or back."""
        half = self.shape.dims // 2
        table = self.table[: x.shape[1], None].astype(x.dtype)
        cos, sin = table[..., :half], table[..., half:]
        if back:
            sin = -sin
        out = np.empty(x.shape, x.dtype)
        first, second = (slice(half), slice(half, None)) if self.shape.neox else _NEIGHBOURS
        a, b = x[..., first], x[..., second]
        out[..., first] = a * cos - b * sin
        out[..., second] = a * sin + b * cos
        return out


def _spans(positions: int, window: int) -> Iterator[tuple[slice, slice]]:
    """Queries some at a time, with the keys that any of them sees."""
    for start in range(0, positions, _QUERIES):
        stop = min(start + _QUERIES, positions)
        yield slice(start, stop), slice(max(0, start - window + 1) if window else 0, stop)


def _scores(q: Array, k: Array, queries: slice, keys: slice, n: AttentionShape) -> Array:
    """[G, queries, keys] from scaled q: capped scores, minus infinity at keys unseen."""
    rows = np.ascontiguousarray(q[:, queries]).reshape(-1, n.dims)
    scores = (rows @ k[keys].T).reshape(len(q), -1, keys.stop - keys.start)
    if n.softcap:
        scores = n.softcap * np.tanh(scores / n.softcap)
    if n.window and keys.stop - keys.start > n.window:
        at = np.arange(queries.start, queries.stop)[:, None] - np.arange(keys.start, keys.stop)
        np.copyto(scores, -np.inf, where=at >= n.window)
    last = scores[..., queries.start - keys.start :]
    last += _UNSEEN[: last.shape[1], : last.shape[2]]
    return scores


def _attend(q: Array, k: Array, v: Array, n: AttentionShape) -> tuple[Array, Array]:
    """q [G, T, dims], k and v [T, dims] -> out [G, T, dims], log of the softmax' sums [G, T]."""
    out, sums = np.empty_like(q), np.empty(q.shape[:-1], q.dtype)
    for queries, keys in _spans(len(k), n.window):
        scores = _scores(q, k, queries, keys, n)
        peaks = scores.max(axis=-1, keepdims=True)
        scores -= peaks
        p = np.exp(scores, out=scores)
        total = p.sum(axis=-1, keepdims=True)
        mixed = p.reshape(-1, p.shape[-1]) @ v[keys]
        out[:, queries] = mixed.reshape(*p.shape[:-1], n.dims) / total
        sums[:, queries] = (peaks + np.log(total))[..., 0]
    return out, sums


def _attend_backward(
    made: tuple[Array, Array, Array, Array, Array], gradient: Array,
    found: tuple[Array, Array, Array], n: AttentionShape,
) -> None:  # fmt: skip
    """Fill `found`, gradients of q [G, T, dims], k and v [T, dims], from that of the output."""
    q, k, v, out, sums = made
    in_q, in_k, in_v = found
    along = np.einsum("gtd,gtd->gt", gradient, out)
    for queries, keys in _spans(len(k), n.window):
        scores = _scores(q, k, queries, keys, n)
        p = np.subtract(scores, sums[:, queries, None], out=None if n.softcap else scores)
        np.exp(p, out=p)
        rows = np.ascontiguousarray(gradient[:, queries]).reshape(-1, n.dims)
        in_v[keys] += p.reshape(len(rows), -1).T @ rows
        inner = (rows @ v[keys].T).reshape(p.shape)
        inner -= along[:, queries, None]
        inner *= p
        if n.softcap:
            inner *= 1 - np.square(np.where(p > 0, scores, 0) / n.softcap)
        flat = inner.reshape(len(rows), -1)
        in_q[:, queries] = (flat @ k[keys]).reshape(len(q), -1, n.dims) * n.scale
        in_k[keys] += flat.T @ np.ascontiguousarray(q[:, queries]).reshape(-1, n.dims)
