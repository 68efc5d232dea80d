"""Mixtures of experts: the router's choice, and matrices of which each token meets only some.

`route` makes every token's choice, i32[used] experts, ascending, then f32[used] weights. `plan`
turns them round: the tokens of every expert. Where those are few, each row of the expert meets them
one by one (`gated_rows`, `images`, `add_rows`); where they are many, they fill tiles that meet its
panels (`gather`, `gated_panels`, `add_panels`). What no token has chosen is never read. A token's
sum runs over ascending experts with few tokens, then over those with many, so no result depends on
how many threads there are.
Source: Shazeer et al. 2017, arXiv:1701.06538.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

from ggq.blocks._frame import Ahead, Frame, panel_rows, tile_tokens
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
# i32 starts[experts + 1]: how many tiles lie before those of an expert; i32 counts[experts] of
# tokens; i32 number of experts with few; then for every place in the tiles i32 token and f32
# weight. An expert has few tokens if at most `few`: below that, unpacking a panel does not pay.

FEW = 3


def most_tiles(tokens: int, experts: int, used: int, width: int) -> int:
    """Tiles of `width` that suffice whatever is chosen: an expert leaves at most one unfilled."""
    pairs = tokens * used
    return pairs if width == 1 else pairs // width + min(experts, pairs)


def plan_bytes(places: int, experts: int) -> int:
    """Bytes of a plan."""
    return 4 * (2 * experts + 2) + 8 * places


class _Plan:
    """A plan in a thread's own memory."""

    def __init__(self, t: Thread, plan: Value, experts: Value, width: Value, few: Value) -> None:
        self.starts = t.at(plan)
        self.experts, self.width, self.limit = experts, width, few
        self.counts = self.starts + (experts + 1) * 4
        self.few_experts = self.counts + experts * 4
        self.entries = self.few_experts + 4

    def start(self, expert: Value) -> Value:
        """Number of the first tile of an expert; of the number of experts, that of all tiles."""
        return _int(self.starts + expert * 4)

    def count(self, expert: Value) -> Value:
        """Number of tokens of an expert."""
        return _int(self.counts + expert * 4)

    def with_few(self) -> Iterator[Value]:
        """A loop over the experts with few tokens, but some."""
        for e in loop(self.experts):
            with when((self.count(e) > 0) & (self.count(e) <= self.limit)):
                yield e

    def with_many(self) -> Iterator[Value]:
        """A loop over the experts with many tokens."""
        for e in loop(self.experts):
            with when(self.count(e) > self.limit):
                yield e

    def places(self, expert: Value) -> Iterator[Value]:
        """A loop over the places that an expert fills."""
        first = self.start(expert) * self.width
        yield from loop(first, first + self.count(expert))

    def token(self, place: Value) -> Value:
        """Token at a place."""
        return _int(self.entries + place * 8)

    def weight(self, place: Value) -> Value:
        """Weight of the expert for the token at a place."""
        return load(f32, self.entries + (place * 8 + 4), 4)


def _int(address: Value) -> Value:
    return load(i32, address, 4).to(i64)


@op
def plan(
    t: Thread, choices: Value, stride: Value, used: Value, nexts: Value, plan: Value,
    experts: Value, width: Value, few: Value,
) -> None:  # fmt: skip
    """Sort the tokens by expert, in their order, in every thread's own memory."""
    made, nexts = _Plan(t, plan, experts, width, few), t.at(nexts)

    def chosen() -> Iterator[tuple[Value, Value, Value]]:
        """(token, expert, address of its weight) of all choices."""
        for token in loop(t.n_tokens):
            for k in loop(used):
                at = choices + token * stride + k * 4
                yield token, _int(at), at + used * 4

    for e in loop(experts):
        store(made.counts + e * 4, const(i32, 0), 4)
    for _, e, _ in chosen():
        store(made.counts + e * 4, (made.count(e) + 1).to(i32), 4)
    tiles, few_experts = var(const(i64, 0)), var(const(i32, 0))
    for e in loop(experts):
        count = made.count(e)
        store(made.starts + e * 4, tiles.to(i32), 4)
        store(nexts + e * 4, (tiles * width).to(i32), 4)
        tiles += (count + (width - 1)) // width
        few_experts += select((count > 0) & (count <= few), const(i32, 1), const(i32, 0))
    store(made.starts + experts * 4, tiles.to(i32), 4)
    store(made.few_experts, few_experts.value, 4)
    for token, e, weight in chosen():
        place = _int(nexts + e * 4)
        store(nexts + e * 4, (place + 1).to(i32), 4)
        store(made.entries + place * 8, token.to(i32), 4)
        store(made.entries + (place * 8 + 4), load(f32, weight, 4), 4)


# -- experts with few tokens: rows times vectors -------------------------------------------------


@cache
def gated_rows(gate_family: BlockType, up_family: BlockType, exact: bool) -> Op:
    """y[place] = silu(gate W[e] x[token]) * (up W[e] x[token]). The threads share all rows.

    `other` is room for as much as y.
    """
    gate_frame, up_frame = frame_of(gate_family, exact), frame_of(up_family, exact)

    def body(
        t: Thread, plan: Value, experts: Value, width: Value, few: Value, gate: Value,
        gate_bytes: Value, gate_x: Value, gate_nbytes: Value, up: Value, up_bytes: Value,
        up_x: Value, up_nbytes: Value, rows: Value, cols: Value, y: Value, other: Value,
        stride: Value,
    ) -> None:  # fmt: skip
        made, lanes = _Plan(t, plan, experts, width, few), target().lanes
        gate_x, up_x = t.at(gate_x), t.at(up_x)
        steps = (rows + (ROWS_STEP - 1)) // ROWS_STEP
        begin, end = t.share(_int(made.few_experts) * steps)
        before = var(const(i64, 0))  # steps of the experts before
        for e in made.with_few():
            low = maximum(begin - before, const(i64, 0)) * ROWS_STEP
            high = minimum((end - before) * ROWS_STEP, rows)
            for frame, w, row_bytes, x, nbytes, out in (
                (gate_frame, gate, gate_bytes, gate_x, gate_nbytes, y),
                (up_frame, up, up_bytes, up_x, up_nbytes, other),
            ):
                for r in loop(low, high):
                    row = w + (e * rows + r) * row_bytes
                    for place in made.places(e):
                        (dot,) = frame.dot_row(row, cols, [x + made.token(place) * nbytes])
                        store(out + place * stride + r * 4, dot, 4)
            for place in made.places(e):
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
    """Lay out x[place] for `add_rows`; the threads take a place each in turn."""

    def body(
        t: Thread, plan: Value, experts: Value, width: Value, few: Value, x: Value, stride: Value,
        cols: Value, nbytes: Value, out: Value,
    ) -> None:  # fmt: skip
        made = _Plan(t, plan, experts, width, few)
        turn = var(const(i64, 0))
        for e in made.with_few():
            for place in made.places(e):
                with when((turn % t.count).eq(t.index)):
                    frame.write_image(x + place * stride, cols, out + place * nbytes)
                turn.set(turn + 1)

    return Op(f"moe.images.{key}", body)


@cache
def add_rows(family: BlockType, exact: bool) -> Op:
    """y[token] += weight * W[e] x[place]; the threads share every expert's rows."""
    frame = frame_of(family, exact)

    def body(
        t: Thread, plan: Value, experts: Value, width: Value, few: Value, w: Value,
        row_bytes: Value, rows: Value, cols: Value, x: Value, nbytes: Value, y: Value,
        stride: Value,
    ) -> None:  # fmt: skip
        made = _Plan(t, plan, experts, width, few)
        begin, end = t.share(rows, ROWS_STEP)
        for e in made.with_few():
            for r in loop(begin, end):
                row = w + (e * rows + r) * row_bytes
                for place in made.places(e):
                    (dot,) = frame.dot_row(row, cols, [x + place * nbytes])
                    at = y + made.token(place) * stride + r * 4
                    store(at, load(f32, at, 4) + made.weight(place) * dot, 4)

    return Op(f"moe.add_rows.{name_of(family, exact)}", body)


# -- experts with many tokens: panels times tiles ------------------------------------------------


@cache
def gather(key: str, frame: Frame) -> Op:
    """Lay out activations in the plan's tiles, which the threads take in turn.

    x has a row for every token, or with `by_place` 1 one for every place.
    """

    def body(
        t: Thread, plan: Value, experts: Value, width: Value, few: Value, x: Value, stride: Value,
        by_place: Value, cols: Value, nbytes: Value, out: Value,
    ) -> None:  # fmt: skip
        made = _Plan(t, plan, experts, width, few)
        for e in made.with_many():
            end = made.start(e) * width + made.count(e)
            for tile in loop(made.start(e), made.start(e + 1)):
                with when((tile % t.count).eq(t.index)):
                    for lane in loop(width):
                        place = tile * width + lane
                        row = x + select(by_place.ne(0), place, made.token(place)) * stride
                        address = select(place < end, row, const(i64, 0))
                        frame.write_tile(address, cols, out + tile * nbytes, lane)

    return Op(f"moe.gather.{key}", body)


class _Panels:
    """One stack of matrices in a kernel, a panel of which is unpacked at a time."""

    def __init__(
        self, frame: Frame, w: Value, row_bytes: Value, rows: Value, cols: Value, panel: Value
    ) -> None:
        self.frame, self.w, self.row_bytes = frame, w, row_bytes
        self.rows, self.cols, self.panel = rows, cols, panel

    def unpack(self, expert: Value, first: Value) -> None:
        """Unpack the panel from row `first` of an expert on; a short one repeats the last row."""
        matrix = self.w + expert * self.rows * self.row_bytes

        def row(r: int) -> Value:
            return matrix + minimum(first + r, self.rows - 1) * self.row_bytes

        self.frame.pack_panel(row, self.cols, self.panel)

    def next(self, expert: Value, first: Value, tiles: Value) -> Ahead:
        """To ask for the panel from row `first` on, if there is one, while `tiles` are met."""
        rows = maximum(minimum(self.rows - first, const(i64, panel_rows())), const(i64, 0))
        address = self.w + (expert * self.rows + first) * self.row_bytes
        return Ahead(address, rows * self.row_bytes, self.frame.steps(self.cols) * tiles)

    def times(self, tile: Value, ahead: Ahead) -> list[Value]:
        """The panel times a tile."""
        return self.frame.multiply(self.panel, tile, self.cols, ahead)


@cache
def gated_panels(gate_family: BlockType, up_family: BlockType, exact: bool) -> Op:
    """y[place] = silu(gate W[e] x) * (up W[e] x); the experts' panels are dealt out in turn."""

    def body(
        t: Thread, plan: Value, experts: Value, width: Value, few: Value, gate: Value,
        gate_bytes: Value, gate_x: Value, gate_nbytes: Value, gate_panel: Value, up: Value,
        up_bytes: Value, up_x: Value, up_nbytes: Value, up_panel: Value, rows: Value, cols: Value,
        y: Value, stride: Value,
    ) -> None:  # fmt: skip
        made, height = _Plan(t, plan, experts, width, few), panel_rows()
        gates = _Panels(
            frame_of(gate_family, exact), gate, gate_bytes, rows, cols, t.at(gate_panel)
        )
        ups = _Panels(frame_of(up_family, exact), up, up_bytes, rows, cols, t.at(up_panel))
        panels = (rows + (height - 1)) // height
        mine = var(t.index)  # the next panel of this thread, counted from this expert's first
        for e in made.with_many():
            tiles = made.start(e + 1) - made.start(e)
            for _ in repeat_while(lambda: mine < panels):
                first, then = mine * height, (mine + t.count) * height
                gates.unpack(e, first)
                ups.unpack(e, first)
                ahead = [stack.next(e, then, tiles) for stack in (gates, ups)]
                for i in loop(made.start(e), made.start(e + 1)):
                    g = gates.times(gate_x + i * gate_nbytes, ahead[0])
                    u = ups.times(up_x + i * up_nbytes, ahead[1])
                    for k in range(tile_tokens()):
                        at = y + (i * width + k) * stride + first * 4
                        store(at, silu(g[k]) * u[k], 4)
                mine.set(mine + t.count)
            mine.set(mine - panels)

    return Op(f"moe.gated_panels.{_names(gate_family, up_family, exact)}", body)


@cache
def add_panels(family: BlockType, exact: bool) -> Op:
    """y[token] += weight * W[e] x[place]; the threads share every expert's rows."""

    def body(
        t: Thread, plan: Value, experts: Value, width: Value, few: Value, w: Value,
        row_bytes: Value, rows: Value, cols: Value, x: Value, nbytes: Value, panel: Value,
        y: Value, stride: Value,
    ) -> None:  # fmt: skip
        made, height = _Plan(t, plan, experts, width, few), panel_rows()
        stack = _Panels(frame_of(family, exact), w, row_bytes, rows, cols, t.at(panel))
        begin, end = t.share(rows, ROWS_STEP)
        for e in made.with_many():
            last = made.start(e) * width + made.count(e)
            tiles = made.start(e + 1) - made.start(e)
            for first in loop(begin, end, height):
                stack.unpack(e, first)
                ahead = stack.next(e, first + height, tiles)
                for i in loop(made.start(e), made.start(e + 1)):
                    for k, sums in enumerate(stack.times(x + i * nbytes, ahead)):
                        place = i * width + k
                        with when(place < last):
                            at = y + made.token(place) * stride + first * 4
                            old = load(f32 * height, at, 4)
                            store(at, old + sums * made.weight(place), 4)

    return Op(f"moe.add_panels.{name_of(family, exact)}", body)
