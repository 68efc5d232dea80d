"""y = W x for weights of any block type: the frames of ggq/blocks behind four operations.

Decoding: `image` lays out one activation vector, `matvec` multiplies. A few tokens: `images` lays
out theirs, and `matvec` unpacks every row once for all. Prefill: `tile` lays out all tokens,
`matmat` unpacks panels of rows and multiplies each with every tile. Every thread has a contiguous
part of the rows, so a row's result never depends on how many threads there are.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from ggq.blocks._float import FloatFrame
from ggq.blocks._frame import Ahead, Frame, panel_rows, tile_tokens
from ggq.jit import cpu
from ggq.jit.lang import (
    Value,
    const,
    f32,
    i32,
    i64,
    load,
    loop,
    maximum,
    minimum,
    prefetch,
    select,
    store,
    when,
)
from ggq.runtime.kernels._op import Op, Single, Thread

if TYPE_CHECKING:
    from ggq.blocks import BlockType

ROWS_STEP = 16  # rows a thread takes at least: one cache line of results


def frame_of(family: BlockType, exact: bool) -> Frame:
    """The family's frame, made once; with `exact`, one that leaves activations as they are."""
    return _frame_of(family, exact, cpu.form())


@cache
def _frame_of(family: BlockType, exact: bool, form: str) -> Frame:
    return FloatFrame(family) if exact else family.frame()


def name_of(family: BlockType, exact: bool) -> str:
    """Tells apart the kernels of a family's own frame and of the exact one in its place."""
    is_own = type(frame_of(family, exact)) is type(frame_of(family, False))
    return family.name if is_own else f"{family.name}.exact"


@cache
def image(key: str, frame: Frame) -> Op:
    """Lay out the last token's activations for `matvec`, in every thread's own memory."""

    def body(t: Thread, x: Value, stride: Value, cols: Value, out: Value) -> None:
        last = t.at(x) + (t.n_tokens - 1) * stride
        frame.write_image(last, cols, t.at(out))

    return Op(f"image.{key}", body)


@cache
def images(key: str, frame: Frame) -> Op:
    """Lay out every token's activations for `matvec`, `nbytes` bytes apart."""

    def body(t: Thread, x: Value, stride: Value, cols: Value, nbytes: Value, out: Value) -> None:
        begin, end = t.share_tokens()
        for token in loop(begin, end):
            frame.write_image(x + token * stride, cols, out + token * nbytes)

    return Op(f"images.{key}", body)


@cache
def matvec(family: BlockType, exact: bool, count: int = 1) -> Op:
    """y[t, r] = W[r] . x[t] for up to `count` tokens, or y += it where `accumulate` is 1.

    Images of tokens are `nbytes` bytes apart, rows of y `stride`. A token's result is the same,
    bit by bit, whatever `count` is.
    """

    def body(
        t: Thread, w: Value, row_bytes: Value, rows: Value, cols: Value, x: Value, nbytes: Value,
        y: Value, stride: Value, accumulate: Value, taken: Value,
    ) -> None:  # fmt: skip
        x, y = t.at(x), t.at(y)
        tokens = t.n_tokens
        each = [x + minimum(tokens - 1, k) * nbytes if k else x for k in range(count)]
        for begin, end in t.turns(rows, ROWS_STEP, taken):
            for r in loop(begin, end):
                dots = frame_of(family, exact).dot_row(w + r * row_bytes, cols, each)
                for k, dot in enumerate(dots):
                    at = y + (r * 4 + stride * k)
                    with when(k < tokens):
                        old = select(accumulate.ne(0), load(f32, at, 4), const(f32, 0.0))
                        store(at, old + dot, 4)

    return Op(f"matvec.{name_of(family, exact)}" + (f".{count}" if count > 1 else ""), body)


@cache
def tile(key: str, frame: Frame) -> Op:
    """Lay out all tokens' activations for `matmat`, a tile of tokens at a time."""

    def body(t: Thread, x: Value, stride: Value, cols: Value, nbytes: Value, out: Value) -> None:
        width = tile_tokens()
        begin, end = t.share_tokens()
        for first in loop(begin, end, width):
            tile = out + (first // width) * nbytes
            for lane in loop(width):
                token = first + lane
                address = select(token < t.n_tokens, x + token * stride, const(i64, 0))
                frame.write_tile(address, cols, tile, lane)

    return Op(f"tile.{key}", body)


@cache
def matmat(family: BlockType, exact: bool) -> Op:
    """y[t, r] = W[r] . x[t] for all tokens, or y += it where `accumulate` is 1.

    Rows of y are `stride` bytes apart and padded to whole panels and tiles.
    """

    def body(
        t: Thread, w: Value, row_bytes: Value, rows: Value, cols: Value, x: Value, nbytes: Value,
        y: Value, stride: Value, accumulate: Value, panel: Value,
    ) -> None:  # fmt: skip
        frame, width, height = frame_of(family, exact), tile_tokens(), panel_rows()
        panel = t.at(panel)
        begin, end = t.share(rows, ROWS_STEP)
        tiles = (t.n_tokens + (width - 1)) // width
        for first in loop(begin, end, height):
            # The last panel may be short: its missing rows repeat the last one.
            def row(r: int, first: Value = first) -> Value:
                return w + minimum(first + r, rows - 1) * row_bytes

            frame.pack_panel(row, cols, panel)
            # By the time the panel is multiplied, the next one's weights are near.
            then = first + height
            rest = maximum(minimum(rows - then, const(i64, height)), const(i64, 0))
            ahead = Ahead(w + then * row_bytes, rest * row_bytes, frame.steps(cols) * tiles)
            most = frame.columns_at_once or cols
            for col in loop(0, cols, most):
                in_panel, in_tile = frame.before(col)
                adds = accumulate.ne(0) | (col > 0)
                for i in loop(tiles):
                    out = y + i * width * stride + first * 4
                    for k in range(width):
                        prefetch(out + stride * k)
                    part = panel + in_panel, x + i * nbytes + in_tile, minimum(cols - col, most)
                    for k, sums in enumerate(frame.multiply(*part, ahead)):
                        at = out + stride * k
                        with when(adds):
                            store(at, sums + load(f32 * height, at, 4), 4)
                        with when(~adds):
                            store(at, sums, 4)

    return Op(f"matmat.{name_of(family, exact)}", body)


@cache
def embed(family: BlockType) -> Op:
    """x[t] = scale * row tokens[t] of the table."""

    def body(
        t: Thread, table: Value, row_bytes: Value, cols: Value, scale: Single, x: Value,
        stride: Value,
    ) -> None:  # fmt: skip
        begin, end = t.share_tokens()
        for token in loop(begin, end):
            row = load(i32, t.tokens + token * 4, 4).to(i64)
            _write_row(family, table + row * row_bytes, cols, scale, x + token * stride)

    return Op(f"embed.{family.name}", body)


def _write_row(family: BlockType, row: Value, cols: Value, scale: Value, out: Value) -> None:
    step = family.weights if family.weights > 1 else 1
    for i in loop(0, cols, step):
        for first, w in family.singles(row + (i // step) * family.nbytes, step):
            store(out + (i + first) * 4, w * scale, 4)


@cache
def add_bias() -> Op:
    """y[t, r] += bias[r]."""

    def body(t: Thread, y: Value, stride: Value, bias: Value, rows: Value) -> None:
        begin, end = t.share_tokens()
        for token in loop(begin, end):
            out = y + token * stride
            for r in loop(rows):
                store(out + r * 4, load(f32, out + r * 4, 4) + load(f32, bias + r * 4, 4), 4)

    return Op("add_bias", body)
