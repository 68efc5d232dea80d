"""Mixtures of experts: the router's choice, and matrices of which each token meets only some.

`route` makes every token's choice, i32[used] experts, ascending, then f32[used] weights. `plan`
turns them round: the tokens of every expert. With few tokens the rows of an expert meet each of its
tokens (`gated_rows`, `images`, `add_rows`), with many the tokens fill tiles that meet its panels
(`gather`, `gated_panels`, `add_panels`). What no token has chosen is never read. Every sum runs
over ascending experts, so no result depends on how many threads there are.
Source: Shazeer et al. 2017, arXiv:1701.06538.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

from ggq.blocks._frame import Frame, panel_rows, tile_tokens
from ggq.jit.isa import target
from ggq.jit.lang import (
    Value,
    absolute,
    const,
    f32,
    i32,
    i64,
    load,
    loop,
    maximum,
    minimum,
    repeat_while,
    select,
    store,
    var,
    when,
)
from ggq.runtime.kernels._math import exp
from ggq.runtime.kernels._op import Op, Thread, op
from ggq.runtime.kernels.activation import silu
from ggq.runtime.kernels.linear import ROWS_STEP, frame_of, name_of

if TYPE_CHECKING:
    from ggq.blocks import BlockType

CHOICE_BYTES = 8  # of one chosen expert and its weight
NO_TOKEN = -1  # in a plan: a place that fills up a tile
_TAKEN = -(2**31)


def _choose(logits: Value, experts: Value, used: Value, keys: Value, out: Value) -> None:
    """The `used` largest of logits f32[experts] and their softmax; of equals the first.

    `keys` is room for i32[experts]: integers in the order of the logits, what is no number above
    all, so that it is chosen and reaches the result.
    """
    peak = var(const(f32, -3e38))
    for i in loop(experts):
        x = load(f32, logits + i * 4, 4)
        peak.set(maximum(x, peak))
        bits = x.bits(i32)
        key = bits ^ ((bits >> 31) & 0x7FFFFFFF)
        store(keys + i * 4, select(x.ne(x), const(i32, 0x7FFFFFFF), key), 4)
    for _ in loop(used):
        best, top = var(const(i64, 0)), var(const(i32, _TAKEN))
        for i in loop(experts):
            key = load(i32, keys + i * 4, 4)
            is_better = key > top
            best.set(select(is_better, i, best))
            top.set(select(is_better, key, top))
        store(keys + best * 4, const(i32, _TAKEN), 4)
    count, total = var(const(i64, 0)), var(const(f32, 0.0))
    for i in loop(experts):
        with when(load(i32, keys + i * 4, 4).eq(_TAKEN)):
            x = load(f32, logits + i * 4, 4)
            weight = exp(x - peak) + absolute(x - x)  # exp alone gives a number for every x
            store(out + count * 4, i.to(i32), 4)
            store(out + (used + count) * 4, weight, 4)
            total += weight
            count += 1
    for k in loop(used):
        at = out + (used + k) * 4
        store(at, load(f32, at, 4) / total, 4)


@op
def route(
    t: Thread, logits: Value, logits_stride: Value, experts: Value, used: Value, keys: Value,
    out: Value, stride: Value,
) -> None:  # fmt: skip
    """Choices of every token; the threads share the tokens."""
    begin, end = t.share_tokens()
    for token in loop(begin, end):
        row = logits + token * logits_stride
        _choose(row, experts, used, t.at(keys), out + token * stride)


# -- the plan ------------------------------------------------------------------------------------
# i32 starts[experts + 1]: how many tiles lie before those of an expert; i32 number of experts that
# have any; then for every place in the tiles i32 token or NO_TOKEN, and f32 weight. With few tokens
# a tile is one place.


def most_tiles(tokens: int, experts: int, used: int, width: int) -> int:
    """Tiles of `width` that suffice whatever is chosen: an expert leaves at most one unfilled."""
    pairs = tokens * used
    return pairs if width == 1 else pairs // width + min(experts, pairs)


def plan_bytes(places: int, experts: int) -> int:
    """Bytes of a plan."""
    return 4 * (experts + 2) + 8 * places


class _Plan:
    """A plan in a thread's own memory."""

    def __init__(self, t: Thread, plan: Value, experts: Value) -> None:
        self.starts = t.at(plan)
        self.experts = experts
        self.places = self.starts + (experts + 2) * 4

    def start(self, expert: Value) -> Value:
        """Number of the first tile of an expert; of the number of experts, that of all tiles."""
        return load(i32, self.starts + expert * 4, 4).to(i64)

    @property
    def busy(self) -> Value:
        """Number of experts that have tokens."""
        return self.start(self.experts + 1)

    def busy_experts(self) -> Iterator[Value]:
        """A loop over the experts that have tokens."""
        for e in loop(self.experts):
            with when(self.start(e) < self.start(e + 1)):
                yield e

    def tiles(self, expert: Value) -> Iterator[Value]:
        """A loop over the tiles of an expert."""
        yield from loop(self.start(expert), self.start(expert + 1))

    def token(self, place: Value) -> Value:
        """Token at a place, or NO_TOKEN."""
        return load(i32, self.places + place * 8, 4).to(i64)

    def weight(self, place: Value) -> Value:
        """Weight of the expert for the token at a place."""
        return load(f32, self.places + (place * 8 + 4), 4)


@op
def plan(
    t: Thread, choices: Value, stride: Value, experts: Value, used: Value, width: Value,
    nexts: Value, out: Value,
) -> None:  # fmt: skip
    """Sort the tokens by expert, in their order, in every thread's own memory."""
    made, nexts = _Plan(t, out, experts), t.at(nexts)

    def chosen() -> Iterator[tuple[Value, Value, Value]]:
        """(token, expert, address of its weight) of all choices."""
        for token in loop(t.n_tokens):
            for k in loop(used):
                at = choices + token * stride + k * 4
                yield token, load(i32, at, 4).to(i64), at + used * 4

    for e in loop(experts):
        store(nexts + e * 4, const(i32, 0), 4)
    for _, e, _ in chosen():
        store(nexts + e * 4, load(i32, nexts + e * 4, 4) + 1, 4)
    tiles, busy = var(const(i64, 0)), var(const(i32, 0))
    for e in loop(experts):
        count = load(i32, nexts + e * 4, 4).to(i64)
        first = tiles * width
        store(made.starts + e * 4, tiles.to(i32), 4)
        store(nexts + e * 4, first.to(i32), 4)
        tiles += (count + (width - 1)) // width
        busy += select(count > 0, const(i32, 1), const(i32, 0))
        for place in loop(first + count, tiles * width):
            store(made.places + place * 8, const(i32, NO_TOKEN), 4)
    store(made.starts + experts * 4, tiles.to(i32), 4)
    store(made.starts + (experts + 1) * 4, busy.value, 4)
    for token, e, weight in chosen():
        place = load(i32, nexts + e * 4, 4)
        store(nexts + e * 4, place + 1, 4)
        at = made.places + place.to(i64) * 8
        store(at, token.to(i32), 4)
        store(at + 4, load(f32, weight, 4), 4)


# -- few tokens: rows times vectors --------------------------------------------------------------


@cache
def gated_rows(gate_family: BlockType, up_family: BlockType, exact: bool) -> Op:
    """y[place] = silu(gate W[e] x[token]) * (up W[e] x[token]). The threads share all rows.

    `other` is room for as much as y.
    """
    gate_frame, up_frame = frame_of(gate_family, exact), frame_of(up_family, exact)

    def body(
        t: Thread, plan: Value, experts: Value, gate: Value, gate_bytes: Value, gate_x: Value,
        gate_nbytes: Value, up: Value, up_bytes: Value, up_x: Value, up_nbytes: Value, rows: Value,
        cols: Value, y: Value, other: Value, stride: Value,
    ) -> None:  # fmt: skip
        made, lanes = _Plan(t, plan, experts), target().lanes
        gate_x, up_x = t.at(gate_x), t.at(up_x)
        steps = (rows + (ROWS_STEP - 1)) // ROWS_STEP
        begin, end = t.share(made.busy * steps)
        before = var(const(i64, 0))  # steps of the experts before
        for e in made.busy_experts():
            low = maximum(begin - before, const(i64, 0)) * ROWS_STEP
            high = minimum((end - before) * ROWS_STEP, rows)
            for frame, w, row_bytes, x, nbytes, out in (
                (gate_frame, gate, gate_bytes, gate_x, gate_nbytes, y),
                (up_frame, up, up_bytes, up_x, up_nbytes, other),
            ):
                for r in loop(low, high):
                    row = w + (e * rows + r) * row_bytes
                    for place in made.tiles(e):
                        (dot,) = frame.dot_row(row, cols, [x + made.token(place) * nbytes])
                        store(out + place * stride + r * 4, dot, 4)
            for place in made.tiles(e):
                for r in loop(low, high, lanes):
                    at = place * stride + r * 4
                    gates, ups = (load(f32 * lanes, a + at, 4) for a in (y, other))
                    store(y + at, silu(gates) * ups, 4)
            before.set(before + steps)

    return Op(f"moe.gated_rows.{_names(gate_family, up_family, exact)}", body)


def _names(gate: BlockType, up: BlockType, exact: bool) -> str:
    return ".".join(dict.fromkeys((name_of(gate, exact), name_of(up, exact))))


@cache
def images(key: str, frame: Frame) -> Op:
    """Lay out what lies at every place for `add_rows`; the threads share the places."""

    def body(
        t: Thread, plan: Value, experts: Value, x: Value, stride: Value, cols: Value,
        nbytes: Value, out: Value,
    ) -> None:  # fmt: skip
        begin, end = t.share(_Plan(t, plan, experts).start(experts))
        for place in loop(begin, end):
            frame.write_image(x + place * stride, cols, out + place * nbytes)

    return Op(f"moe.images.{key}", body)


@cache
def add_rows(family: BlockType, exact: bool) -> Op:
    """y[token] += weight * W[e] x[place]; the threads share every expert's rows."""
    frame = frame_of(family, exact)

    def body(
        t: Thread, plan: Value, experts: Value, w: Value, row_bytes: Value, rows: Value,
        cols: Value, x: Value, nbytes: Value, y: Value, stride: Value,
    ) -> None:  # fmt: skip
        made = _Plan(t, plan, experts)
        begin, end = t.share(rows, ROWS_STEP)
        for e in made.busy_experts():
            for r in loop(begin, end):
                row = w + (e * rows + r) * row_bytes
                for place in made.tiles(e):
                    (dot,) = frame.dot_row(row, cols, [x + place * nbytes])
                    at = y + made.token(place) * stride + r * 4
                    store(at, load(f32, at, 4) + made.weight(place) * dot, 4)

    return Op(f"moe.add_rows.{name_of(family, exact)}", body)


# -- many tokens: panels times tiles -------------------------------------------------------------


@cache
def gather(key: str, frame: Frame) -> Op:
    """Lay out activations in the plan's tiles, which the threads share.

    x has a row for every token, or with `by_place` 1 one for every place.
    """

    def body(
        t: Thread, plan: Value, experts: Value, x: Value, stride: Value, by_place: Value,
        cols: Value, nbytes: Value, out: Value,
    ) -> None:  # fmt: skip
        made, width = _Plan(t, plan, experts), tile_tokens()
        begin, end = t.share(made.start(experts))
        for tile in loop(begin, end):
            for lane in loop(width):
                place = tile * width + lane
                token = made.token(place)
                row = x + select(by_place.ne(0), place, token) * stride
                address = select(token < 0, const(i64, 0), row)
                frame.write_tile(address, cols, out + tile * nbytes, lane)

    return Op(f"moe.gather.{key}", body)


def _pack(
    frame: Frame, w: Value, first: Value, rows: Value, row_bytes: Value, cols: Value, panel: Value
) -> None:
    """Unpack the panel from row `first` of w on; a short one repeats the last row."""
    frame.pack_panel(lambda r: w + minimum(first + r, rows - 1) * row_bytes, cols, panel)


@cache
def gated_panels(gate_family: BlockType, up_family: BlockType, exact: bool) -> Op:
    """y[place] = silu(gate W[e] x) * (up W[e] x). The experts' panels are dealt out in turn."""
    gate_frame, up_frame = frame_of(gate_family, exact), frame_of(up_family, exact)

    def body(
        t: Thread, plan: Value, experts: Value, gate: Value, gate_bytes: Value, gate_x: Value,
        gate_nbytes: Value, gate_panel: Value, up: Value, up_bytes: Value, up_x: Value,
        up_nbytes: Value, up_panel: Value, rows: Value, cols: Value, y: Value, stride: Value,
    ) -> None:  # fmt: skip
        made, width, height = _Plan(t, plan, experts), tile_tokens(), panel_rows()
        gate_panel, up_panel = t.at(gate_panel), t.at(up_panel)
        panels = (rows + (height - 1)) // height
        mine = var(t.index)  # the next panel of this thread, counted from this expert's first
        for e in made.busy_experts():
            for _ in repeat_while(lambda: mine < panels):
                first, skipped = mine * height, e * rows
                of_gate, of_up = gate + skipped * gate_bytes, up + skipped * up_bytes
                _pack(gate_frame, of_gate, first, rows, gate_bytes, cols, gate_panel)
                _pack(up_frame, of_up, first, rows, up_bytes, cols, up_panel)
                for i in made.tiles(e):
                    gates = gate_frame.multiply(gate_panel, gate_x + i * gate_nbytes, cols)
                    ups = up_frame.multiply(up_panel, up_x + i * up_nbytes, cols)
                    for k in range(width):
                        at = y + (i * width + k) * stride + first * 4
                        store(at, silu(gates[k]) * ups[k], 4)
                mine.set(mine + t.count)
            mine.set(mine - panels)

    return Op(f"moe.gated_panels.{_names(gate_family, up_family, exact)}", body)


@cache
def add_panels(family: BlockType, exact: bool) -> Op:
    """y[token] += weight * W[e] x[place]; the threads share every expert's rows."""
    frame = frame_of(family, exact)

    def body(
        t: Thread, plan: Value, experts: Value, w: Value, row_bytes: Value, rows: Value,
        cols: Value, x: Value, nbytes: Value, panel: Value, y: Value, stride: Value,
    ) -> None:  # fmt: skip
        made, width, height = _Plan(t, plan, experts), tile_tokens(), panel_rows()
        panel = t.at(panel)
        begin, end = t.share(rows, ROWS_STEP)
        for e in made.busy_experts():
            of_expert = w + e * rows * row_bytes
            for first in loop(begin, end, height):
                _pack(frame, of_expert, first, rows, row_bytes, cols, panel)
                for i in made.tiles(e):
                    for k, sums in enumerate(frame.multiply(panel, x + i * nbytes, cols)):
                        place = i * width + k
                        token = made.token(place)
                        with when(token >= 0):
                            at = y + token * stride + first * 4
                            old = load(f32 * height, at, 4)
                            store(at, old + sums * made.weight(place), 4)

    return Op(f"moe.add_panels.{name_of(family, exact)}", body)
