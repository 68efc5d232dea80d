"""Between projections and attention: head norms, rotary positions, and filling the KV cache.

Source of rotary positions: Su et al. 2021, arXiv:2104.09864; of turning what a cache of few bits
keeps: Ashkboos et al. 2024, arXiv:2404.00456, in the form of llama.cpp src/llama-kv-cache.cpp.
"""

from __future__ import annotations

from functools import cache

from ggq.jit.isa import target
from ggq.jit.lang import Value, const, f32, load, loop, shuffle, store, when
from ggq.runtime.kernels._op import Op, Single, Thread
from ggq.runtime.kernels.cache import HEAD_STEP, Cache, CacheType
from ggq.runtime.kernels.norm import normalize

_STEP = HEAD_STEP // 2  # pairs of dimensions handled at once
TURNED = 64  # dimensions a Hadamard matrix turns


def _rotate(x: Value, dims: Value, table: Value, neox: bool) -> None:
    """Rotate pairs of x f32[dims] by the angles whose cosines, then sines, are at `table`."""
    half = dims // 2
    for i in loop(0, half, _STEP):
        cos = load(f32 * _STEP, table + i * 4, 4)
        sin = load(f32 * _STEP, table + (half + i) * 4, 4)
        if neox:  # pairs are half a head apart
            a, b = load(f32 * _STEP, x + i * 4, 4), load(f32 * _STEP, x + (half + i) * 4, 4)
            store(x + i * 4, a * cos - b * sin, 4)
            store(x + (half + i) * 4, a * sin + b * cos, 4)
        else:  # pairs are neighbours
            both = load(f32 * (2 * _STEP), x + i * 8, 4)
            a, b = shuffle(both, range(0, 2 * _STEP, 2)), shuffle(both, range(1, 2 * _STEP, 2))
            low, high = a * cos - b * sin, a * sin + b * cos
            mixed = [lane // 2 + lane % 2 * _STEP for lane in range(2 * _STEP)]
            store(x + i * 8, shuffle(low, mixed, high), 4)


def turn(x: Value, dims: Value) -> None:
    """Multiply every TURNED dimensions of x f32[dims] by the orthonormal Hadamard matrix.

    It is its own inverse. Heads that are no multiple of TURNED stay as they are.
    """
    lanes = target().lanes
    with when((dims % TURNED).eq(0)):
        for first in loop(0, dims, TURNED):
            parts = [load(f32 * lanes, x + (first + i) * 4, 4) for i in range(0, TURNED, lanes)]
            distance = 1
            while distance < TURNED:
                parts = _butterfly(parts, distance)
                distance *= 2
            for i, part in enumerate(parts):
                store(x + (first + i * lanes) * 4, part * TURNED**-0.5, 4)


def _butterfly(parts: list[Value], distance: int) -> list[Value]:
    """Sums and differences of numbers so far apart."""
    lanes = parts[0].type.lanes
    if distance >= lanes:
        apart = distance // lanes
        return [
            parts[i - apart] - part if i & apart else part + parts[i + apart]
            for i, part in enumerate(parts)
        ]
    signs = const(f32 * lanes, [-1 if i & distance else 1 for i in range(lanes)])
    partner = [i ^ distance for i in range(lanes)]
    return [shuffle(part, partner) + part * signs for part in parts]


class Heads:
    """Makes queries, keys and values of the heads of projections, for one layer's cache."""

    def __init__(
        self, cache: Cache, neox: bool, rope_dims: Value, table: Value, eps: Value
    ) -> None:
        self._cache, self._neox = cache, neox
        self._rope_dims, self._table, self._eps = rope_dims, table, eps

    def query(self, x: Value, norm: Value, position: Value, out: Value) -> None:
        """out f32[dims] = x normalized (with weights at `norm`, unless 0) and rotated."""
        dims = self._cache.dims
        with when(norm.ne(0)):
            normalize(x, norm, dims, self._eps, out)
        with when(norm.eq(0) & x.ne(out)):
            _copy(x, dims, out)
        table = self._table + position * self._rope_dims * 4
        _rotate(out, self._rope_dims, table, self._neox)
        if self._cache.key_type.rotated:
            turn(out, dims)

    def key(self, x: Value, norm: Value, head: Value, position: Value, work: Value) -> None:
        """Keep what is made of x as a query is; `work` f32[dims], which may be x."""
        self.query(x, norm, position, work)
        self._cache.store_key(head, position, work)

    def value(self, x: Value, head: Value, position: Value, work: Value) -> None:
        """Keep x; `work` f32[dims], which may be x."""
        if self._cache.value_type.rotated:
            with when(x.ne(work)):
                _copy(x, self._cache.dims, work)
            turn(work, self._cache.dims)
            x = work
        self._cache.store_value(head, position, x)


def _copy(x: Value, dims: Value, out: Value) -> None:
    for d in loop(0, dims, HEAD_STEP):
        store(out + d * 4, load(f32 * HEAD_STEP, x + d * 4, 4), 4)


@cache
def heads(neox: bool, key_type: CacheType, value_type: CacheType) -> Op:
    """Make queries in place, keep keys and values; threads share the tokens.

    `q_norm` and `k_norm` are weights of a norm over each head, or 0 for none.
    """

    def body(
        t: Thread, q: Value, q_stride: Value, k: Value, k_stride: Value, v: Value, v_stride: Value,
        n_head: Value, n_head_kv: Value, dims: Value, rope_dims: Value, table: Value,
        q_norm: Value, k_norm: Value, eps: Single, cache: Value, blocks: Value,
    ) -> None:  # fmt: skip
        layer = Cache(key_type, value_type, cache, blocks, dims)
        made = Heads(layer, neox, rope_dims, table, eps)
        begin, end = t.share_tokens()
        for token in loop(begin, end):
            position = t.position + token
            for head in loop(n_head):
                x = q + token * q_stride + head * dims * 4
                made.query(x, q_norm, position, x)
            for head in loop(n_head_kv):
                x = k + token * k_stride + head * dims * 4
                made.key(x, k_norm, head, position, x)
                x = v + token * v_stride + head * dims * 4
                made.value(x, head, position, x)

    kind = "neox" if neox else "norm"
    return Op(f"heads.{kind}.{key_type.name}.{value_type.name}", body)
