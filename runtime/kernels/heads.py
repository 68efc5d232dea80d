"""Between projections and attention: head norms, rotary positions, and filling the KV cache.

Cache of one layer, half precision: keys [kv head][position / 16][dim][16], so that 16 scores come
from one vector per dimension; values [kv head][position][dim].
Source of rotary positions: Su et al. 2021, arXiv:2104.09864.
"""

from __future__ import annotations

from functools import cache

from ggq.jit.isa import target
from ggq.jit.lang import Value, f32, load, loop, select, shuffle, store, when
from ggq.runtime.kernels._op import Op, Single, Thread
from ggq.runtime.kernels.norm import normalize

KEY_BLOCK = 16  # positions of one block of keys
_STEP = 4  # dimensions, or pairs of them, handled at once
HEAD_STEP = 2 * _STEP  # every head has a multiple of so many dimensions


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


def key_address(cache: Value, head: Value, position: Value, ctx: Value, dims: Value) -> Value:
    """Address of dimension 0 of one key; the next dimension is 2 * KEY_BLOCK bytes on."""
    block = head * (ctx // KEY_BLOCK) + position // KEY_BLOCK
    return cache + block * dims * (2 * KEY_BLOCK) + position % KEY_BLOCK * 2


@cache
def heads(neox: bool, one_token: bool) -> Op:
    """Rotate queries in place; rotate keys into the cache; copy values into the cache.

    With one token the threads share the heads, else they share the tokens. `q_norm` and `k_norm`
    are weights of a norm over each head, or 0 for none.
    """

    def body(
        t: Thread, q: Value, q_stride: Value, k: Value, k_stride: Value, v: Value, v_stride: Value,
        n_head: Value, n_head_kv: Value, dims: Value, rope_dims: Value, table: Value,
        q_norm: Value, k_norm: Value, eps: Single, keys: Value, values: Value, ctx: Value,
    ) -> None:  # fmt: skip
        def one_head(head: Value, token: Value) -> None:
            position = t.position + token
            is_query = head < n_head
            is_key = (head < n_head + n_head_kv) & ~is_query
            row = select(is_query, q + token * q_stride, k + token * k_stride)
            x = row + select(is_query, head, head - n_head) * dims * 4
            weight = select(is_query, q_norm, k_norm)
            with when((is_query | is_key) & weight.ne(0)):
                normalize(x, weight, dims, eps, x)
            with when(is_query | is_key):
                _rotate(x, rope_dims, table + position * rope_dims * 4, neox)
            with when(is_key):
                out = key_address(keys, head - n_head, position, ctx, dims)
                for d in loop(0, dims, _STEP):
                    half = target().single_to_half(load(f32 * _STEP, x + d * 4, 4))
                    for j in range(_STEP):
                        store(out + (d + j) * (2 * KEY_BLOCK), half[j], 2)
            with when(~(is_query | is_key)):
                own = head - n_head - n_head_kv
                x = v + token * v_stride + own * dims * 4
                out = values + (own * ctx + position) * dims * 2
                for d in loop(0, dims, _STEP):
                    half = target().single_to_half(load(f32 * _STEP, x + d * 4, 4))
                    store(out + d * 2, half, 2)

        total = n_head + n_head_kv + n_head_kv
        if one_token:
            begin, end = t.share(total)
            for head in loop(begin, end):
                one_head(head, head * 0)
        else:
            begin, end = t.share_tokens()
            for token in loop(begin, end):
                for head in loop(total):
                    one_head(head, token)

    kind = "neox" if neox else "norm"
    return Op(f"heads.{kind}.{'one' if one_token else 'all'}", body)
