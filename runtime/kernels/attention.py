"""Causal attention of few tokens over the KV cache: softmax(q k^T * scale) v.

`attend` makes the queries, keeps keys and values, and sums up each block of the cache for itself;
the threads share the blocks of all heads. `combine` joins a head's blocks in their order. So the
cache is read once, by all query heads of a group together, and no result depends on the number of
threads. Many tokens: attention_tiles.py.
Sources: Vaswani et al. 2017, equation 1; sums by block: Dao et al. 2022, arXiv:2205.14135; grouped
heads: arXiv:2305.13245; sliding windows: arXiv:2004.05150; capped scores: arXiv:2408.00118.
"""

from __future__ import annotations

from functools import cache

from ggq.jit.isa import target
from ggq.jit.lang import (
    Value,
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
    minimum,
    prefetch,
    select,
    splat,
    store,
    var,
    when,
    zeros,
)
from ggq.runtime.kernels._math import exp2, tanh
from ggq.runtime.kernels._op import Op, Single, Thread
from ggq.runtime.kernels.cache import (
    BLOCK,
    STRIP,
    Cache,
    CacheType,
    broadcast,
    pieces,
    vector_lanes,
)
from ggq.runtime.kernels.heads import Heads, turn

MASKED = -1e30
_TOGETHER = 4  # query heads that share what is loaded, at most
_LOG2_E = 1.4426950408889634


def at_once(group: int) -> int:
    """Query heads `attend` handles at once where so many share a head of the cache."""
    return -(-group // -(-group // _TOGETHER))


def score_words(scale: float, softcap: float) -> dict[str, float]:
    """Words of a description: scores are logarithms to base 2 of weights."""
    if softcap:
        return {"scale": scale / softcap, "cap": softcap * _LOG2_E}
    return {"scale": scale * _LOG2_E, "cap": 0.0}


class Partial:
    """What `attend` leaves for `combine`, for every row, which is a query head of a token.

    f32 peaks [row][slot] and totals [row][slot] of weights, with a slot per block, and f32 sums
    [row][slot][dim] of weighted values.
    """

    def __init__(self, address: Value, rows: Value, slots: Value, dims: Value) -> None:
        self.peaks = address
        self.totals = address + rows * slots * 4
        self.sums = self.totals + rows * slots * 4
        self._slots, self._dims = slots, dims

    def slot(self, row: Value, slot: Value) -> tuple[Value, Value, Value]:
        """Addresses of peak, total and sums."""
        at = row * self._slots + slot
        return self.peaks + at * 4, self.totals + at * 4, self.sums + at * self._dims * 4


def slots_of(blocks: int) -> int:
    """Slots for so many blocks: whole vectors of any processor."""
    return -(-blocks // 16) * 16


def partial_bytes(rows: int, blocks: int, dims: int) -> int:
    """Bytes of a Partial."""
    return rows * slots_of(blocks) * 4 * (2 + dims)


def own_bytes(key_type: CacheType, value_type: CacheType, rows: int, dims: int) -> dict[str, int]:
    """Bytes of what a thread has for itself, by name; `rows` share a head of the cache.

    One vector, the queries, and their weights in a block, once more for every scale of a value.
    """
    scaled = dims // value_type.group if value_type.group > 1 else 0
    weights = 4 * BLOCK * _TOGETHER * (1 + scaled)
    return {"vector": 4 * dims, "queries": rows * key_type.query_bytes(dims), "weights": weights}


class _Block:
    """Attention of `queries` over positions first..end of one block.

    Meanwhile its values, then `coming` keys of the block behind it, are asked for from memory:
    processors foresee a stream only to the end of its page of 4 KB.
    """

    def __init__(
        self, layer: Cache, keys: Value, queries: list[Value], first: Value, end: Value,
        weights: Value, coming: Value,
    ) -> None:  # fmt: skip
        self._layer, self._keys = layer, keys
        self._values = layer.values_behind(keys)
        self._queries, self._first, self._end, self._weights = queries, first, end, weights
        self._following, self._coming = layer.after(keys), coming
        self._begin = first // STRIP * STRIP
        self._stop = minimum((end + (STRIP - 1)) // STRIP * STRIP, const(i64, BLOCK))

    def _weight(self, query: int, position: Value) -> Value:
        return self._weights + (position + query * BLOCK) * 4

    def write_scores(self, cap: Value | None) -> list[Value]:
        """Masked scores instead of weights; the peak of each query."""
        lanes = target().lanes
        peaks = [var(const(f32 * lanes, MASKED)) for _ in self._queries]
        row_bytes = self._layer.value_type.vector_bytes(self._layer.dims)
        for at in loop(self._begin, self._stop, STRIP):
            _ask_for(self._values + at * row_bytes, row_bytes * STRIP)
            strip = self._keys + at // STRIP * self._layer.strip_bytes
            for lane in range(0, STRIP, lanes):
                here = splat((at + lane).to(i32), lanes) + const(i32 * lanes, range(lanes))
                visible = (here >= self._first.to(i32)) & (here < self._end.to(i32))
                scores = self._layer.key_type.scores(strip, lane, self._layer.dims, self._queries)
                for k, score in enumerate(scores):
                    score = select(visible, capped(score, cap), const(score.type, MASKED))
                    store(self._weight(k, at + lane), score, 4)
                    peaks[k].set(maximum(peaks[k], score))
        return [hmax(peak) for peak in peaks]

    def write_weights(self, peaks: list[Value]) -> list[Value]:
        """Weights relative to the peaks, in place of the scores; their totals."""
        lanes = target().lanes
        totals = [var(zeros(f32 * lanes)) for _ in peaks]
        for at in loop(self._begin, self._stop, lanes):
            for k, (peak, total) in enumerate(zip(peaks, totals, strict=True)):
                place = self._weight(k, at)
                weight = exp2(load(f32 * lanes, place, 4) - splat(peak, lanes))
                store(place, weight, 4)
                total += weight
        return [hsum(total) for total in totals]

    def scale_weights(self) -> None:
        """Behind the weights, the same times the scales of every group of the values."""
        lanes, count = target().lanes, len(self._queries)
        value_type, dims = self._layer.value_type, self._layer.dims
        if value_type.group == 1:
            return
        scaled = self._weight(count, const(i64, 0))
        for group in loop(0, dims // value_type.group):
            for at in loop(self._begin, self._stop, lanes):
                scales = value_type.value_scales(self._values, at, dims, group)
                for k in range(count):
                    weight = load(f32 * lanes, self._weight(k, at), 4)
                    place = scaled + ((group * count + k) * BLOCK + at) * 4
                    store(place, weight * scales, 4)

    def write_sums(self, outs: list[Value]) -> None:
        """Weighted sums of the values, f32[dims] per query."""
        value_type, dims = self._layer.value_type, self._layer.dims
        whole = max(value_type.step, 4 * target().lanes)
        for begin, stop, step in pieces(dims, whole, value_type.step):
            for d in loop(begin, stop, step):
                self._sum_dims(d, step, outs)

    def _sum_dims(self, d: Value, step: int, outs: list[Value]) -> None:
        value_type, dims, lanes = self._layer.value_type, self._layer.dims, vector_lanes(step)
        sums = [[var(zeros(f32 * lanes)) for _ in range(0, step, lanes)] for _ in outs]
        share = self._layer.strip_bytes * d // dims
        part = self._layer.strip_bytes * step // dims
        for strip in loop(self._begin, self._stop, STRIP):
            with when(strip < self._coming):
                coming = self._following + strip // STRIP * self._layer.strip_bytes
                _ask_for(coming + share, part)
            begin, end = maximum(self._first, strip), minimum(self._end, strip + STRIP)
            for at in loop(begin, end):
                row = value_type.read_value(self._values, at, dims, d, step)
                for k, parts in enumerate(sums):
                    for j, part in enumerate(parts):
                        part.set(fma(self._scaled(k, at, d, j * lanes, lanes), row[j], part))
        for out, parts in zip(outs, sums, strict=True):
            for j, part in enumerate(parts):
                store(out + (d + j * lanes) * 4, part.value, 4)

    def _scaled(self, query: int, position: Value, d: Value, offset: int, lanes: int) -> Value:
        """Weight of a position times the scale of its value's dimension d + offset."""
        group = self._layer.value_type.group
        if group == 1:
            return broadcast(self._weight(query, position), lanes)
        count = len(self._queries)
        index = ((d // group + offset // group) * count + (count + query)) * BLOCK
        return broadcast(self._weights + (index + position) * 4, lanes)


def _ask_for(address: Value, nbytes: Value) -> None:
    for offset in loop(0, nbytes, 64):
        prefetch(address + offset)


def capped(score: Value, cap: Value | None) -> Value:
    """cap * tanh(score), or the score itself where there is no cap."""
    return score if cap is None else tanh(score) * cap


@cache
def attend(
    neox: bool, key_type: CacheType, value_type: CacheType, together: int, has_cap: bool
) -> Op:
    """Partial attention of every block; `together` query heads of a group at once."""

    def body(
        t: Thread, q: Value, q_stride: Value, k: Value, k_stride: Value, v: Value, v_stride: Value,
        n_head: Value, n_head_kv: Value, dims: Value, rope_dims: Value, table: Value,
        q_norm: Value, k_norm: Value, eps: Single, cache: Value, blocks: Value, scale: Single,
        cap: Single, window: Value, vector: Value, queries: Value, weights: Value, rows: Value,
        slots: Value, partial: Value,
    ) -> None:  # fmt: skip
        layer = Cache(key_type, value_type, cache, blocks, dims)
        heads = Heads(layer, neox, rope_dims, table, eps)
        vector, queries, weights = t.at(vector), t.at(queries), t.at(weights)
        query_bytes, group = key_type.query_bytes(dims), n_head // n_head_kv
        left = Partial(partial, rows, slots, dims)

        def write_queries(head: Value) -> None:
            for token in loop(t.n_tokens):
                for member in loop(group):
                    x = q + token * q_stride + (head * group + member) * dims * 4
                    heads.query(x, q_norm, t.position + token, vector)
                    out = queries + (token * group + member) * query_bytes
                    key_type.write_query(vector, dims, scale, out)

        def keep_new(head: Value, block: Value) -> None:
            begin = maximum(block * BLOCK - t.position, const(i64, 0))
            for token in loop(begin, minimum((block + 1) * BLOCK - t.position, t.n_tokens)):
                at = head * dims * 4
                heads.key(k + token * k_stride + at, k_norm, head, t.position + token, vector)
                heads.value(v + token * v_stride + at, head, t.position + token, vector)

        def attend_block(head: Value, block: Value, token: Value, member: Value) -> None:
            own = t.position + token
            first = maximum(own - window + 1 - block * BLOCK, const(i64, 0))
            end = minimum(own + 1 - block * BLOCK, const(i64, BLOCK))
            row = token * n_head + head * group + member
            slot = [left.slot(row + j, block) for j in range(together)]
            asked = [queries + (token * group + member + j) * query_bytes for j in range(together)]
            coming = t.position + t.n_tokens - (block + 1) * BLOCK
            here = _Block(layer, layer.keys(head, block), asked, first, end, weights, coming)
            peaks = here.write_scores(cap if has_cap else None)
            totals = here.write_weights(peaks)
            here.scale_weights()
            here.write_sums([sums for _, _, sums in slot])
            for (peak_at, total_at, _), peak, total in zip(slot, peaks, totals, strict=True):
                store(peak_at, peak, 4)
                store(total_at, total, 4)

        first_block, end_block = block_range(t, window)
        count = end_block - first_block
        begin, tasks_end = t.share(n_head_kv * count)
        for head in loop(begin // count, (tasks_end + (count - 1)) // count):
            start = first_block + maximum(begin - head * count, const(i64, 0))
            stop = first_block + minimum(tasks_end - head * count, count)
            # The first keys are on their way while the queries are made.
            known = minimum(t.position - start * BLOCK, const(i64, BLOCK))
            _ask_for(layer.keys(head, start), key_type.vector_bytes(dims) * known)
            write_queries(head)
            for block in loop(start, stop):
                keep_new(head, block)
                for token in loop(t.n_tokens):
                    # Where `together` does not divide the group, the last ones come twice.
                    for member in loop(0, group, together):
                        attend_block(head, block, token, minimum(member, group - together))

    kind = f"{'neox' if neox else 'norm'}.{together}{'.cap' if has_cap else ''}"
    return Op(f"attend.few.{key_type.name}.{value_type.name}.{kind}", body)


def block_range(t: Thread, window: Value) -> tuple[Value, Value]:
    """(first, end) of the blocks that the tokens of a run look at."""
    first = maximum(t.position - window + 1, const(i64, 0))
    return first // BLOCK, (t.position + (t.n_tokens - 1)) // BLOCK + 1


@cache
def combine(turned: bool, one_token: bool) -> Op:
    """out[t, h] = weighted sums of all blocks over their total weight.

    With one token every thread makes all of it in its own memory, else threads share the rows.
    """

    def body(
        t: Thread, n_head: Value, dims: Value, window: Value, rows: Value, slots: Value,
        partial: Value, factors: Value, out: Value, out_stride: Value,
    ) -> None:  # fmt: skip
        lanes = target().lanes
        out, factors = t.at(out), t.at(factors)
        left = Partial(partial, rows, slots, dims)
        first, end = block_range(t, window)
        begin, stop = (const(i64, 0), n_head) if one_token else t.share(n_head * t.n_tokens)
        from_slot, to_slot = first // lanes * lanes, end
        for row in loop(begin, stop):
            into = out + row // n_head * out_stride + row % n_head * dims * 4
            peaks, totals, _ = left.slot(row, const(i64, 0))

            def is_used(slot: Value) -> Value:
                here = splat(slot.to(i32), lanes) + const(i32 * lanes, range(lanes))
                return (here >= first.to(i32)) & (here < end.to(i32))

            highest = var(const(f32 * lanes, MASKED))
            for slot in loop(from_slot, to_slot, lanes):
                peak = load(f32 * lanes, peaks + slot * 4, 4)
                highest.set(maximum(highest, select(is_used(slot), peak, highest)))
            peak = splat(hmax(highest), lanes)
            total = var(zeros(f32 * lanes))
            for slot in loop(from_slot, to_slot, lanes):
                factor = exp2(load(f32 * lanes, peaks + slot * 4, 4) - peak)
                factor = select(is_used(slot), factor, zeros(factor.type))
                store(factors + slot * 4, factor, 4)
                part = load(f32 * lanes, totals + slot * 4, 4)
                total += select(is_used(slot), part * factor, zeros(factor.type))
            inverse = const(f32, 1.0) / hsum(total)
            for d_begin, d_stop, step in pieces(dims, 4 * lanes, 8):
                width = min(step, lanes)
                for d in loop(d_begin, d_stop, step):
                    sums = [var(zeros(f32 * width)) for _ in range(0, step, width)]
                    for slot in loop(first, end):
                        _, _, source = left.slot(row, slot)
                        factor = broadcast(factors + slot * 4, width)
                        for j, sum in enumerate(sums):
                            at = source + (d + j * width) * 4
                            sum.set(fma(factor, load(f32 * width, at, 4), sum))
                    for j, sum in enumerate(sums):
                        store(into + (d + j * width) * 4, sum * inverse, 4)
            if turned:
                turn(into, dims)

    return Op(f"combine{'.turned' if turned else ''}.{'one' if one_token else 'all'}", body)
