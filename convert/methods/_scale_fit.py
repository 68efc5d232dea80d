"""The scales of rows that lose least, every weight's error counted by its importance."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ggq.convert.grids import Grid, Parts
from ggq.convert.methods._scale_kernels import group_kernel, super_kernel
from ggq.jit import Kernel
from ggq.jit.isa import target

F32 = npt.NDArray[np.float32]

ROUNDS = 3
# Super-scales tried make the largest scale of a block this share of the largest that can be stored.
FILLS = (1.0, 0.93, 0.85)


class _Super(NamedTuple):
    """By lanes: d, dmin, errors f32[blocks, lanes]; scales, minima f32[blocks, groups, lanes]."""

    d: F32
    dmin: F32
    scales: F32
    minima: F32
    errors: F32


def kernels(grid: Grid) -> list[Kernel]:
    """Those that `fit` runs."""
    if _is_single(grid):
        return [group_kernel(grid, True)]
    return [group_kernel(grid, False), super_kernel(grid)]


def fit(grid: Grid, w: F32, importance: F32, start: Parts) -> Parts:
    """f32[R, C], [R, C] -> parts that lose no more than those of the start, usually less."""
    x, h = by_rows(w), by_rows(importance)
    if _is_single(grid):
        return _fit_single(grid, w, x, h, start)
    blocks, groups = x.shape[1] // grid.type.weights, grid.type.weights // grid.group
    best = _improved(grid, x, h, _stored(start, groups))
    for begin in _searched(grid, x, h):
        new = _improved(grid, x, h, begin)
        wins = new.errors < best.errors
        best = _Super(*(_where(wins, a, b) for a, b in zip(new, best, strict=True)))
    R = len(w)
    d, dmin = (to_rows(a.reshape(len(x), blocks, -1), R).astype(np.float16) for a in best[:2])
    scales, minima = (
        to_rows(a.reshape(len(x), blocks * groups, -1), R).astype(np.int16) for a in best[2:4]
    )
    found = Parts(
        d,
        dmin if grid.has_minimum else None,
        scales,
        minima if grid.has_minimum else None,
        start.levels,
    )
    return found._replace(levels=nearest_levels(grid, w, found))


def nearest_levels(grid: Grid, w: F32, parts: Parts) -> npt.NDArray[np.int8]:
    """i8[R, C]: the level nearest to each weight; where a step is 0 the one nearest to 0."""
    group = grid.group
    steps, offsets = (np.repeat(a, group, axis=1) for a in (parts.steps(), parts.offsets()))
    ideal = np.divide(w - offsets, steps, out=np.zeros_like(w), where=steps != 0)
    if grid.is_even:
        return np.asarray(np.clip(np.rint(ideal), grid.levels[0], grid.levels[-1]), np.int8)
    table = np.array(grid.levels, np.int8)
    middles = (table[1:].astype(np.float32) + table[:-1]) / 2
    return np.asarray(table[np.searchsorted(middles, ideal, side="right")])


def by_rows(x: npt.NDArray[Any]) -> F32:
    """[R, C] -> f32[row groups, C, lanes], 0 where there is no row."""
    lanes = target().lanes
    R, C = x.shape
    out = np.zeros((-(-R // lanes), C, lanes), np.float32)
    for g in range(len(out)):
        rows = x[g * lanes : (g + 1) * lanes]
        out[g, :, : len(rows)] = rows.T
    return out


def to_rows(x: npt.NDArray[Any], R: int) -> npt.NDArray[Any]:
    """[row groups, C, lanes] -> [R, C], undoing `by_rows`."""
    return np.ascontiguousarray(x.transpose(0, 2, 1).reshape(-1, x.shape[1])[:R])


def _is_single(grid: Grid) -> bool:
    return grid.type.weights == grid.group


def _fit_single(grid: Grid, w: F32, x: F32, h: F32, start: Parts) -> Parts:
    steps, offsets = by_rows(start.steps()), by_rows(start.offsets())
    _run_groups(grid, True, x, h, steps, offsets)
    R = len(w)
    d = to_rows(steps, R).astype(np.float16)
    dmin = to_rows(offsets, R).astype(np.float16) if grid.has_minimum else None
    found = start._replace(d=d, dmin=dmin)
    return found._replace(levels=nearest_levels(grid, w, found))


def _run_groups(grid: Grid, stored: bool, x: F32, h: F32, steps: F32, offsets: F32) -> None:
    errors = np.empty_like(steps)
    group_kernel(grid, stored)(
        x.ctypes.data, h.ctypes.data, steps.ctypes.data, offsets.ctypes.data, errors.ctypes.data,
        x.shape[0] * x.shape[1] // grid.group,
    )  # fmt: skip


def _stored(parts: Parts, groups: int) -> _Super:
    d, dmin, scales, minima = full(parts)
    return _shaped(by_rows(d), by_rows(dmin), by_rows(scales), by_rows(minima), groups)


def full(parts: Parts) -> tuple[F32, F32, F32, F32]:
    """(d, dmin, scales, minima) as singles, zeros where there are no minima."""
    d, scales = parts.d.astype(np.float32), parts.scales.astype(np.float32)
    if parts.dmin is None or parts.minima is None:
        return d, np.zeros_like(d), scales, np.zeros_like(scales)
    return d, parts.dmin.astype(np.float32), scales, parts.minima.astype(np.float32)


def _shaped(d: F32, dmin: F32, scales: F32, minima: F32, groups: int) -> _Super:
    lanes = d.shape[-1]
    flat = d.reshape(-1, lanes)
    return _Super(
        flat, dmin.reshape(-1, lanes),
        scales.reshape(-1, groups, lanes), minima.reshape(-1, groups, lanes), np.empty_like(flat),
    )  # fmt: skip


def _improved(grid: Grid, x: F32, h: F32, begin: _Super) -> _Super:
    super_kernel(grid)(
        x.ctypes.data, h.ctypes.data, *(each.ctypes.data for each in begin),
        len(begin.d), ROUNDS,
    )  # fmt: skip
    return begin


def _searched(grid: Grid, x: F32, h: F32) -> list[_Super]:
    """Starts from a search of every group by itself."""
    groups = grid.type.weights // grid.group
    shape = (len(x), x.shape[1] // grid.group, x.shape[2])
    steps, offsets = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    _run_groups(grid, False, x, h, steps, offsets)
    steps, offsets = (a.reshape(-1, groups, x.shape[2]) for a in (steps, offsets))
    starts = []
    for fill in FILLS:
        d, scales = _split(steps, grid.scale_range, fill)
        dmin, minima = np.zeros_like(d), np.zeros_like(scales)
        if grid.has_minimum:
            dmin, minima = _split(offsets, grid.minimum_range, fill)
        starts.append(_shaped(d, dmin, scales, minima, groups))
    return starts


def _split(numbers: F32, ends: tuple[int, int], fill: float) -> tuple[F32, F32]:
    """[blocks, groups, lanes] -> (half precision unit [blocks, lanes], integers low..high)."""
    low, high = ends
    most = np.take_along_axis(numbers, np.abs(numbers).argmax(1)[:, None], 1)
    if low >= 0:  # integers of one sign: the unit has that of most of the weight
        most = np.where(numbers.sum(1, keepdims=True) < 0, numbers.min(1, keepdims=True),
                        numbers.max(1, keepdims=True))  # fmt: skip
    end = low if low < 0 else high
    unit = (most / (end * fill)).astype(np.float16).astype(np.float32)
    integers = np.divide(numbers, unit, out=np.zeros_like(numbers), where=unit != 0)
    return np.ascontiguousarray(unit[:, 0]), np.clip(np.rint(integers), low, high)


def _where(wins: npt.NDArray[np.bool_], a: F32, b: F32) -> F32:
    return np.where(wins if a.ndim == 2 else wins[:, None], a, b)
