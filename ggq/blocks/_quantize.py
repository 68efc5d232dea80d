"""Singles -> blocks for any type: the driver of each family's `quantize_lanes`.

The bytes are those of x86-64 llama-quantize: a lane of the kernel does what the C code does for one
block, in its order, without fused operations. Threads share the blocks; the result does not depend
on their number.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from ggq.blocks._base import F32, U8
from ggq.blocks._lanes import Arguments, Lanes, blocks_at_once
from ggq.errors import QuantizeError
from ggq.jit import Kernel, prepare
from ggq.jit.isa import target
from ggq.jit.lang import (
    Value,
    const,
    f32,
    hmax,
    i32,
    i64,
    load,
    loop,
    minimum,
    select,
    splat,
    store,
    var,
    when,
    zeros,
)
from ggq.jit.transpose import transpose

if TYPE_CHECKING:
    from ggq.blocks._base import BlockType

_CHUNK = 1 << 18  # weights a thread takes at a time


@cache
def quantize_kernel(family: BlockType, weighted: bool) -> Kernel:
    """Kernel(x, out, groups, importance, columns, first, row_squares, tables, refused).

    x f32[groups * n, weights], out u8[groups * n, nbytes], n = blocks_at_once(family).
    `importance` f32[columns * weights] of a row, `first` the number of the first block in the
    tensor, `row_squares` f32[rows], `tables` what the family's `quantize_tables` gives. `refused`
    i64: left alone, or set to the first block, of those given, that cannot be stored.
    """

    def body(*values: Value) -> None:
        given, n = Arguments(*values), blocks_at_once(family)
        refused = var(splat(given.groups.to(i32), n))
        for group in loop(given.groups):
            family.quantize_lanes(Lanes(family, weighted, given, group, refused))
        earliest = -hmax(-refused)
        with when(earliest < given.groups.to(i32)):
            lane = n - hmax(select(refused.eq(earliest), const(i32 * n, range(n, 0, -1)), 0))
            store(given.refused, (earliest * n + lane).to(i64))

    suffix = ".importance" if weighted else ""
    return Kernel(f"quantize.{family.name}{suffix}", body, 9)


@cache
def _row_squares_kernel() -> Kernel:
    """Kernel(x f32[R, C], R, C, out f32[R + lanes]): the mean square of every row.

    C is a multiple of the lanes.
    """

    def body(x: Value, rows: Value, columns: Value, out: Value) -> None:
        n = target().lanes
        for row in loop(0, rows, n):
            each = [x + minimum(row + k, rows - 1) * columns * 4 for k in range(n)]
            total = var(zeros(f32 * n))
            for i in loop(0, columns, n):
                for w in transpose([load(f32 * n, address + i * 4) for address in each]):
                    total += w * w
            store(out + row * 4, total / columns.to(f32))

    return Kernel("quantize.row_squares", body, 4)


def quantize(family: BlockType, x: F32, importance: F32 | None, threads: int) -> U8:
    """f32[R, C] -> u8[R, row_bytes]; see BlockType.quantize."""
    if not family.can_quantize:
        raise QuantizeError(f"{family} tensors cannot be quantized to; pick another type")
    x = np.ascontiguousarray(x, np.float32)
    if x.ndim != 2:
        raise ValueError(f"found an array of shape {x.shape}, wanted rows and columns")
    rows, cols = x.shape
    out = np.empty((rows, family.row_bytes(cols)), np.uint8)
    importance = _checked(importance, cols) if family.uses_importance else None
    if importance is None and family.needs_importance:
        raise QuantizeError(f"{family} tensors need the importance of every column")
    quantize_into(family, x, importance, out, threads)
    return out


def quantize_into(
    family: BlockType, x: F32, importance: F32 | None, out: U8, threads: int = 0
) -> None:
    """Contiguous f32[R, C], importance f32[C] or None -> out u8[R, row_bytes], written."""
    if x.size:
        _Job(family, x, importance, out).run(threads or _cores())


def _cores() -> int:
    """Processors this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _checked(importance: F32 | None, cols: int) -> F32 | None:
    if importance is None:
        return None
    importance = np.ascontiguousarray(importance, np.float32)
    if importance.shape != (cols,):
        raise ValueError(f"importance of shape {importance.shape} for rows of {cols} weights")
    bad = np.flatnonzero(~(np.isfinite(importance) & (importance >= 0)))
    if bad.size:
        raise QuantizeError(
            f"the importance of column {bad[0]} is {importance[bad[0]]!s}; it must be finite and "
            "not negative"
        )
    return importance


class _Job:
    def __init__(self, family: BlockType, x: F32, importance: F32 | None, out: U8) -> None:
        self.family, self.rows = family, x
        self.x = x.reshape(-1, family.weights)
        self.out = out.reshape(-1, family.nbytes)
        self.importance = importance
        self.kernel = quantize_kernel(family, importance is not None)
        self.group = blocks_at_once(family)
        self.row_squares = np.zeros(len(x) + target().lanes, np.float32)
        self.tables = family.quantize_tables()

    def run(self, threads: int) -> None:
        whole = len(self.x) // self.group * self.group
        step = max(_CHUNK // self.family.weights // self.group, 1) * self.group
        ends = [min(start + step, whole) for start in range(0, whole, step)]
        parts = [
            (self.x[start:end], self.out[start:end], start)
            for start, end in zip(range(0, whole, step), ends, strict=True)
        ]
        if self.importance is not None and self.family.uses_row_squares:
            rows, cols = self.rows.shape
            _row_squares_kernel()(self.rows.ctypes.data, rows, cols, self.row_squares.ctypes.data)
        if threads == 1 or len(parts) <= 1:
            for part in parts:
                self._blocks(*part)
        else:
            prepare([self.kernel])
            with ThreadPoolExecutor(threads) as pool:
                for _ in pool.map(lambda part: self._blocks(*part), parts):
                    pass  # an error of the earliest part ends the loop, and what has not begun
        if whole < len(self.x):
            self._tail(whole)

    def _tail(self, start: int) -> None:
        """The last blocks, too few to fill the lanes."""
        count = len(self.x) - start
        x = np.zeros((self.group, self.family.weights), np.float32)
        out = np.empty((self.group, self.family.nbytes), np.uint8)
        x[:count] = self.x[start:]
        self._blocks(x, out, start)
        self.out[start:] = out[:count]

    def _blocks(self, x: F32, out: U8, first: int) -> None:
        refused = np.full(1, -1, np.int64)
        weights = self.importance
        self.kernel(
            x.ctypes.data, out.ctypes.data, len(x) // self.group,
            0 if weights is None else weights.ctypes.data,
            self.rows.shape[1] // self.family.weights, first,
            self.row_squares.ctypes.data, self.tables.ctypes.data, refused.ctypes.data,
        )  # fmt: skip
        if refused[0] >= 0:
            self._refuse(first + int(refused[0]))

    def _refuse(self, block: int) -> None:
        weights = self.x[block]
        bad = np.flatnonzero(~np.isfinite(weights))
        i = int(bad[0] if bad.size else np.argmax(np.abs(weights)))
        row, start = divmod(block * self.family.weights, self.rows.shape[1])
        column = start + i
        problem = (
            f"{self.family} can only hold finite weights"
            if bad.size
            else f"a scale of {self.family} would be infinite; a wider type can hold it"
        )
        raise QuantizeError(
            f"the weight in row {row}, column {column} is {weights[i]!s}: {problem}",
            row=row,
            column=column,
        )
