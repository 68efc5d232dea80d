"""The float frame: weights become singles, activations stay singles.

Exact up to the order of summation. Floating-point types use it, and all types where exactness is
asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ggq.blocks._frame import (
    Ahead,
    Frame,
    lines,
    padded,
    panel_rows,
    row_addresses,
    stream,
    tile_tokens,
    token_values,
)
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
    scratch,
    split,
    store,
    var,
    when,
    zeros,
)
from ggq.jit.transpose import columns

if TYPE_CHECKING:
    from ggq.blocks._base import BlockType


class FloatFrame(Frame):
    """Blocks of any layout through the family's `singles`."""

    key = "f32"
    tile_number = 4
    columns_at_once = 2048

    def __init__(self, family: BlockType) -> None:
        self.family = family

    def image_bytes(self, cols: int) -> int:
        return padded(4 * cols)

    def write_image(self, x: Value, cols: Value, image: Value) -> None:
        _copy(x, cols, lambda i, v: store(image + i * 4, v))

    def _steps(self, cols: Value) -> list[tuple[int, Value, Value]]:
        """(weights per step, first weight, end): whole steps first, then a step per block."""
        block = self.family.weights
        wide = block if block > 1 else 4 * target().lanes
        start = const(i64, 0)
        whole = cols - cols % wide
        steps = [(wide, start, whole)]
        return steps if block > 1 else [*steps, (1, whole, cols)]

    def _weights(self, row: Value, i: Value, step: int) -> list[tuple[int, Value]]:
        block = self.family.weights
        return list(self.family.singles(row + (i // block) * self.family.nbytes, step))

    def dot_row(self, row: Value, cols: Value, images: Sequence[Value]) -> list[Value]:
        lanes = target().lanes
        sums = [[var(zeros(f32 * lanes)) for _ in range(4)] for _ in images]
        rests = [var(const(f32, 0.0)) for _ in images]
        for step, start, end in self._steps(cols):
            for i in loop(start, end, step):
                at = row + (i // self.family.weights) * self.family.nbytes
                stream(at, step // self.family.weights * self.family.nbytes)
                for first, w in self._weights(row, i, step):
                    if w.type.lanes in (0, 1):
                        w = w if not w.type.lanes else w[0]
                        for image, rest in zip(images, rests, strict=True):
                            rest.set(fma(w, load(f32, image + (i + first) * 4, 4), rest))
                        continue
                    for k, part in enumerate(split(w, lanes) if w.type.lanes > lanes else [w]):
                        at = (i + (first + k * lanes)) * 4
                        for image, four in zip(images, sums, strict=True):
                            total = four[(first // lanes + k) % 4]
                            total.set(fma(part, load(f32 * lanes, image + at, 4), total))
        return [
            hsum((a + b) + (c + d)) + rest for (a, b, c, d), rest in zip(sums, rests, strict=True)
        ]

    def panel_bytes(self, cols: int) -> int:
        return padded(4 * cols * panel_rows())

    def pack_panel(self, row: Callable[[int], Value], cols: Value, panel: Value) -> None:
        rows, addresses = panel_rows(), row_addresses(row)
        for step, start, end in self._steps(cols):
            unpacked = scratch(4 * step * rows)  # [row][weight], on its way to [weight][row]
            for i in loop(start, end, step):
                for r in loop(rows):
                    for first, w in self._weights(load(i64, addresses + r * 8, 8), i, step):
                        store(unpacked + r * (4 * step) + 4 * first, w, 4)
                width = min(step, rows)
                for j in loop(0, step, width):
                    each = lines(f32 * width, unpacked + j * 4, 4 * step)
                    for k, column in enumerate(columns(each)):
                        store(panel + (i + j + k) * (4 * rows), column, 4)

    def tile_bytes(self, cols: int) -> int:
        return padded(4 * cols * tile_tokens())

    def write_tile(self, x: Value, cols: Value, tile: Value, token: Value) -> None:
        tokens = tile_tokens()

        def put(i: Value, v: Value) -> None:
            for k in range(max(v.type.lanes, 1)):
                store(tile + ((i + k) * tokens + token) * 4, v[k] if v.type.lanes else v, 4)

        with when(x.ne(0)):
            _copy(x, cols, put)
        with when(x.eq(0)):
            for i in loop(cols):
                put(i, const(f32, 0.0))

    def before(self, col: Value) -> tuple[Value, Value]:
        return col * (4 * panel_rows()), col * (4 * tile_tokens())

    def steps(self, cols: Value) -> Value:
        return cols

    def multiply(
        self, panel: Value, tile: Value, cols: Value, ahead: Ahead | None = None
    ) -> list[Value]:
        rows, tokens = panel_rows(), tile_tokens()
        sums = [var(zeros(f32 * rows)) for _ in range(tokens)]
        for i in loop(cols):
            if ahead:
                ahead.step()
            w = load(f32 * rows, panel + i * (4 * rows), 4)
            for x, total in zip(token_values(f32, tile, i), sums, strict=True):
                total.set(fma(w, x, total))
        return [s.value for s in sums]


def _copy(x: Value, cols: Value, put: Callable[[Value, Value], None]) -> None:
    """Hand x f32[cols] to `put(index, values)` in vectors, the last few one by one."""
    lanes = target().lanes
    whole = cols - cols % lanes
    for i in loop(0, whole, lanes):
        put(i, load(f32 * lanes, x + i * 4, 4))
    for i in loop(whole, cols):
        put(i, load(f32, x + i * 4, 4))
