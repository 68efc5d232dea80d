"""Causal attention of many tokens over the KV cache: softmax(q k^T * scale) v, online.

A task is TILE tokens of all query heads that share a head of the cache. Each block of the cache is
unpacked once for them (panels.py), and what it gives is added to what the blocks before gave; sums
are kept relative to the highest score so far. Source: Dao et al. 2022, arXiv:2205.14135.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial

from ggq.blocks._frame import tile_tokens
from ggq.jit.isa import target
from ggq.jit.lang import (
    Value,
    Var,
    const,
    f32,
    fma,
    i32,
    i64,
    load,
    loop,
    maximum,
    minimum,
    select,
    shuffle,
    splat,
    store,
    var,
    when,
    zeros,
)
from ggq.runtime.kernels._math import exp2
from ggq.runtime.kernels._op import Op, Single, Thread
from ggq.runtime.kernels.attention import MASKED, capped
from ggq.runtime.kernels.cache import BLOCK, HEAD_STEP, STRIP, Cache, CacheType, broadcast, pieces
from ggq.runtime.kernels.heads import turn
from ggq.runtime.kernels.panels import SINGLES, Singles, share_out, shorts

TILE = 64  # tokens
_COLUMNS = 2  # vectors of keys, and of values, multiplied at once


def rows_at_once() -> int:
    """Tokens whose sums have registers together: of a tile, and one lane each in a vector."""
    return min(tile_tokens(), target().lanes)


def own_bytes(dims: int, group: int) -> dict[str, int]:
    """Bytes of what a thread has for itself, by name; `group` query heads share one of the cache.

    Queries of a task, the unpacked block, weights of a few rows, and sums of rows.
    """
    vector = SINGLES.vector_bytes(dims)  # the others' are shorter
    return {
        "queries": vector * TILE * group, "keys": vector * BLOCK, "values": vector * BLOCK,
        "weights": 4 * BLOCK * rows_at_once(), "sums": 4 * (4 * TILE * group),
    }  # fmt: skip


class _Sums:
    """f32 per row of a task: highest score so far, sum of weights, factor of the sums before.

    Where weights become shares of their sum in a block: what one is worth.
    """

    def __init__(self, address: Value, rows: Value, first: Value) -> None:
        self.peaks = address + first * 4
        self.totals = self.peaks + rows * 4
        self.factors = self.totals + rows * 4
        self.shares = self.factors + rows * 4

    def clear(self) -> None:
        """As before the first block, for one row."""
        store(self.peaks, const(f32, MASKED), 4)
        store(self.totals, const(f32, 0.0), 4)

    def update(self, peaks: Value, totals: Callable[[Value], Value]) -> None:
        """Take in a block's peaks f32[n], and its totals, which are made once peaks are known."""
        n = peaks.type.lanes
        before = load(f32 * n, self.peaks, 4)
        peaks = maximum(peaks, before)
        factors = exp2(before - peaks)
        store(self.peaks, peaks, 4)
        store(self.factors, factors, 4)
        store(self.totals, load(f32 * n, self.totals, 4) * factors + totals(peaks), 4)


class _Rows:
    """Consecutive tokens of one query head, as many as have registers, against one block.

    `own` is the position of the first, `last` of the last there is at all, within the block.
    """

    def __init__(
        self, panel: Singles, dims: Value, queries: Value, weights: Value, own: Value, last: Value,
        window: Value,
    ) -> None:  # fmt: skip
        self._panel, self._dims, self._queries, self._weights = panel, dims, queries, weights
        self._own, self._last, self._window = own, last, window
        self._count = rows_at_once()
        step, none = _COLUMNS * target().lanes, const(i64, 0)
        self._first = maximum(own - window + 1, none)
        self._end = minimum(minimum(own + self._count, last + 1), const(i64, BLOCK))
        self._begin = self._first // step * step
        self._stop = (self._end + (step - 1)) // step * step

    @property
    def see_it(self) -> Value:
        """Whether any of the tokens sees any position of the block."""
        return self._first < self._end

    def _row(self, row: int) -> Value:
        return self._weights + row * (BLOCK * 4)

    def _weight(self, row: int, at: Value) -> Value:
        return self._row(row) + at * 4

    def write_scores(self, keys: Value, cap: Value | None) -> Value:
        """Scores of all rows, masked where they are not seen; the highest f32[rows]."""
        lanes = target().lanes
        nbytes = self._panel.vector_bytes(self._dims)
        queries = [self._queries + nbytes * k for k in range(self._count)]
        peaks = [var(const(f32 * lanes, MASKED)) for _ in queries]
        for at in loop(self._begin, self._stop, _COLUMNS * lanes):
            places = [at + j * lanes for j in range(_COLUMNS)]
            columns = [keys + p // STRIP * (nbytes * STRIP) + p % STRIP * 4 for p in places]
            for k, scores in enumerate(self._panel.scores(columns, self._dims, queries)):
                for place, score in zip(places, scores, strict=True):
                    score = capped(score, cap)
                    store(self._weight(k, place), score, 4)
                    peaks[k].set(maximum(peaks[k], score))
        all_see_all = (self._own - self._window + self._count <= self._begin) & (
            self._stop <= minimum(self._own, self._last) + 1
        )
        with when(~all_see_all):
            self._mask(peaks)
        return folded([peak.value for peak in peaks], maximum)

    def _mask(self, peaks: list[Var]) -> None:
        lanes = target().lanes
        for k, peak in enumerate(peaks):
            peak.set(const(f32 * lanes, MASKED))
            own = minimum(self._own + k, self._last).to(i32)
            for at in loop(self._begin, self._stop, lanes):
                here = splat(at.to(i32), lanes) + const(i32 * lanes, range(lanes))
                seen = (here <= own) & (here > own - self._window.to(i32))
                score = load(f32 * lanes, self._weight(k, at), 4)
                score = select(seen, score, const(score.type, MASKED))
                store(self._weight(k, at), score, 4)
                peak.set(maximum(peak, score))

    def write_weights(self, values: Value, shares: Value, peaks: Value) -> Value:
        """Weights relative to peaks f32[rows] in place of the scores; their sums f32[rows]."""
        lanes, rounds = target().lanes, self._panel.rounds
        totals, scaled = ([var(zeros(f32 * lanes)) for _ in range(self._count)] for _ in range(2))
        for at in loop(self._begin, self._stop, lanes):
            scales = self._panel.value_scales(values, self._dims, at) if rounds else None
            for k in range(self._count):
                weight = exp2(load(f32 * lanes, self._weight(k, at), 4) - splat(peaks[k], lanes))
                totals[k] += weight
                if scales is not None:
                    weight = weight * scales
                    scaled[k] += weight
                store(self._weight(k, at), weight, 4)
        if rounds:
            self._round_weights(_over_lanes(scaled), shares)
        return _over_lanes(totals)

    def _round_weights(self, totals: Value, shares: Value) -> None:
        """Make integers of 16 bits of weights, side by side from where their row begins."""
        lanes = target().lanes
        factor, worth = share_out(totals)
        store(shares, worth, 4)
        for at in loop(self._begin, self._stop, lanes):
            for k in range(self._count):
                weight = load(f32 * lanes, self._weight(k, at), 4) * splat(factor[k], lanes)
                store(self._row(k) + at * 2, shorts(weight), 4)

    def add_values(self, values: Value, sum: _Sums, out: Value, out_stride: Value) -> None:
        """Rows of out = themselves * factor + weighted sums of values."""
        rows = [self._row(k) for k in range(self._count)]
        for begin, stop, step in pieces(self._dims, _COLUMNS * target().lanes, HEAD_STEP):
            for d in loop(begin, stop, step):
                found = self._panel.weighted_sums(
                    values, self._dims, d, step, rows, self._first, self._end, sum.shares
                )
                for k, parts in enumerate(found):
                    for j, part in enumerate(parts):
                        lanes = part.type.lanes
                        at = out + out_stride * k + (d + j * lanes) * 4
                        factor = broadcast(sum.factors + k * 4, lanes)
                        store(at, fma(load(f32 * lanes, at, 4), factor, part), 4)


def _over_lanes(sums: list[Var]) -> Value:
    return folded([sum.value for sum in sums], lambda a, b: a + b)


def folded(rows: list[Value], combine: Callable[[Value, Value], Value]) -> Value:
    """One lane per row: all lanes of each combined. The number of rows is a power of two."""
    lanes = rows[0].type.lanes
    part = lanes  # lanes each row has in a vector
    while part > 1:
        part //= 2
        low = [i for i in range(lanes) if not i & part]
        high = [i + part for i in low]
        if len(rows) > 1:
            low, high = low + [i + lanes for i in low], high + [i + lanes for i in high]
            pairs = zip(rows[::2], rows[1::2], strict=True)
            rows = [combine(shuffle(a, low, b), shuffle(a, high, b)) for a, b in pairs]
        else:
            rows = [combine(shuffle(rows[0], low), shuffle(rows[0], high))]
            lanes //= 2
    return rows[0]


def _dealt(t: Thread, tasks: Value) -> Iterator[Value]:
    """The thread's own tasks. They are dealt out there and back, for later ones take longer."""
    for first in loop(0, tasks, t.count):
        is_back = (first // t.count & 1).ne(0)
        task = first + select(is_back, t.count - 1 - t.index, t.index)
        with when(task < tasks):
            yield task


@cache
def attend_tiles(key_type: CacheType, value_type: CacheType, has_cap: bool, panel: Singles) -> Op:
    """out[t, h] = attention of query head h; threads share tiles and heads of the cache."""

    def body(
        t: Thread, q: Value, q_stride: Value, n_head: Value, n_head_kv: Value, dims: Value,
        cache: Value, blocks: Value, scale: Single, cap: Single, window: Value, queries: Value,
        keys: Value, values: Value, weights: Value, sums: Value, out: Value, out_stride: Value,
    ) -> None:  # fmt: skip
        layer = Cache(key_type, value_type, cache, blocks, dims)
        queries, keys, values = t.at(queries), t.at(keys), t.at(values)
        weights, sums = t.at(weights), t.at(sums)
        group, rows, nbytes = n_head // n_head_kv, rows_at_once(), panel.vector_bytes(dims)

        def unpack(head: Value, block: Value, begin: Value, end: Value) -> None:
            from_cache = layer.keys(head, block)
            two = 2 * STRIP  # so many keys are looked at, at once, at most
            for at in loop(begin // two * two, (end + (two - 1)) // two * two, STRIP):
                strip = from_cache + at // STRIP * layer.strip_bytes
                panel.pack_keys(layer, strip, keys + at * nbytes)
            panel.pack_values(layer, layer.values_behind(from_cache), begin, end, values)

        tiles = (t.n_tokens + (TILE - 1)) // TILE
        for task in _dealt(t, tiles * n_head_kv):
            head, first = task % n_head_kv, task // n_head_kv * TILE
            stop = minimum(first + TILE, t.n_tokens)
            count = (stop - first + (rows - 1)) // rows * rows
            position, last = t.position + first, t.position + (stop - 1)
            oldest = maximum(position - window + 1, const(i64, 0))

            def sums_of(member: Value, token: Value) -> _Sums:
                return _Sums(sums, group * TILE, member * TILE + token)

            def query_of(member: Value, token: Value) -> Value:
                return queries + (member * TILE + token) * nbytes

            def place(
                member: Value, token: Value, head: Value = head, first: Value = first
            ) -> Value:
                return out + (first + token) * out_stride + (head * group + member) * dims * 4

            for member in loop(group):
                for token in loop(count):
                    from_token = minimum(first + token, stop - 1)  # a row without token: the last
                    x = q + from_token * q_stride + (head * group + member) * dims * 4
                    panel.write_query(x, dims, scale, query_of(member, token))
                    sums_of(member, token).clear()
                    for d in loop(0, dims, HEAD_STEP):
                        store(place(member, token) + d * 4, zeros(f32 * HEAD_STEP), 4)

            for block in loop(oldest // BLOCK, last // BLOCK + 1):
                start = block * BLOCK
                end = minimum(last + 1 - start, const(i64, BLOCK))
                unpack(head, block, maximum(oldest - start, const(i64, 0)), end)
                for member in loop(group):
                    for token in loop(0, count, rows):
                        here = _Rows(
                            panel, dims, query_of(member, token), weights,
                            position + token - start, last - start, window,
                        )  # fmt: skip
                        with when(here.see_it):
                            sum = sums_of(member, token)
                            peaks = here.write_scores(keys, cap if has_cap else None)
                            sum.update(peaks, partial(here.write_weights, values, sum.shares))
                            here.add_values(values, sum, place(member, token), out_stride)

            for member in loop(group):
                for token in loop(count):
                    row, total = place(member, token), load(f32, sums_of(member, token).totals, 4)
                    inverse = const(f32, 1.0) / total
                    for d in loop(0, dims, HEAD_STEP):
                        x = load(f32 * HEAD_STEP, row + d * 4, 4) * inverse
                        store(row + d * 4, x, 4)
                    if value_type.rotated:
                        turn(row, dims)

    kind = f"{panel.name}{'.cap' if has_cap else ''}"
    return Op(f"attend.tiles.{key_type.name}.{value_type.name}.{kind}", body)
