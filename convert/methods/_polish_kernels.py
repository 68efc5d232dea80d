"""Scales fitted anew to levels that are given, against a full Hessian; only where that costs less.

With errors E, slopes E H and y what a scale multiplies, a change by t costs 2 t y (E H)^T +
t^2 y H y^T, so the best t is one division; it is rounded to what can be stored. Arrays are by lanes
as in `ggq.convert.methods._kernels`; columns are all of a tensor's, in their own order.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from ggq.convert.methods._kernels import EIGHT, Lane, coefficient, none, spread
from ggq.convert.methods._scale_kernels import half
from ggq.jit import Kernel
from ggq.jit.isa import target
from ggq.jit.lang import (
    Value,
    f32,
    fma,
    lane_bits,
    loop,
    maximum,
    minimum,
    rint,
    scratch,
    select,
    splat,
    var,
    when,
)

Rounded = Callable[[Value], Value]  # a number -> the nearest that can be stored


class Shape(NamedTuple):
    """How a type's scales lie: blocks of `weights` with d, groups in them with integers."""

    weights: int
    group: int
    has_minimum: bool


class Ends(NamedTuple):
    """What can be stored: integers `low`, `low` + `stride`, ... `high`, minima up to `top`.

    d is stored in half precision, as so many times 1 / `parts`.
    """

    low: int
    high: int
    stride: int = 1
    top: int = 0
    parts: int = 1


@cache
def polish_kernel(shape: Shape) -> Kernel:
    """Kernel(slopes, levels, d, dmin, scales, minima, packed, columns, groups, *Ends).

    Improves d and dmin f32[groups, blocks] and the integers scales and minima f32[groups, columns /
    group]; slopes E H f32[groups, columns] follow. levels f32[groups, columns]; packed: H.
    """

    def body(
        slopes: Value, levels: Value, d: Value, dmin: Value, scales: Value, minima: Value,
        packed: Value, columns: Value, groups: Value, low: Value, high: Value, stride: Value,
        top: Value, parts: Value,
    ) -> None:  # fmt: skip
        first, last, step, most, parts = (x.to(f32) for x in (low, high, stride, top, parts))
        integer = _integer(first, last, step)
        minimum_of, super_scale = _integer(first * 0.0, most, first * 0.0 + 1.0), _stored(parts)
        per_block = shape.weights // shape.group
        y = Lane(scratch(shape.weights * target().nbytes))
        for g in loop(groups):
            all_slopes, all_levels = (Lane(a).part(g * columns) for a in (slopes, levels))
            blocks = columns // shape.weights
            all_d, all_dmin = (Lane(a).part(g * blocks) for a in (d, dmin))
            scale, drop = (Lane(a).part(g * blocks * per_block) for a in (scales, minima))
            for b in loop(blocks):
                for j in loop(per_block if per_block > 1 else 0):
                    at, k = b * shape.weights + j * shape.group, b * per_block + j
                    here = _Range(all_slopes, packed, columns, at, shape.group, y)
                    for i in loop(shape.group):
                        y[i] = all_levels[at + i]
                    scale[k] = here.change(scale[k], all_d[b], integer)
                    if shape.has_minimum:
                        for i in loop(shape.group):
                            y[i] = none() + 1.0
                        drop[k] = here.change(drop[k], all_dmin[b], minimum_of)
                at = b * shape.weights
                here = _Range(all_slopes, packed, columns, at, shape.weights, y)
                for i in loop(shape.weights):
                    y[i] = all_levels[at + i] * scale[b * per_block + i // shape.group]
                all_d[b] = here.change(all_d[b], none() + 1.0, super_scale)
                if shape.has_minimum:
                    for i in loop(shape.weights):
                        y[i] = drop[b * per_block + i // shape.group]
                    all_dmin[b] = here.change(all_dmin[b], none() + 1.0, half)

    name = f"{shape.weights}.{shape.group}{'.minima' if shape.has_minimum else ''}"
    return Kernel(f"methods.polish.{name}", body, 14)


def _integer(low: Value, high: Value, stride: Value) -> Rounded:
    def rounded(x: Value) -> Value:
        nearest = rint((x - low) / stride) * stride + low
        return maximum(minimum(nearest, splat(high, target().lanes)), low)

    return rounded


def _stored(parts: Value) -> Rounded:
    return lambda x: half(x * parts) / parts


class _Range(NamedTuple):
    """`n` columns from `at` on that one number multiplies, each by its y."""

    slopes: Lane
    packed: Value
    columns: Value
    at: Value
    n: int
    y: Lane

    def change(self, now: Value, unit: Value, rounded: Rounded) -> Value:
        """The number, w = unit * number * y, made better if it can be; slopes follow."""
        along, curve = self._along(), self._curve()
        ideal = now - along / (curve * unit)
        new = rounded(select((curve > 0.0) & unit.ne(0.0), ideal, now))
        move = (new - now) * unit
        better = move * (2.0 * along + move * curve) < 0.0
        move = select(better, move, 0.0)
        with when(lane_bits(move.ne(0.0)).ne(0)):
            for first in loop(0, self.n, EIGHT):
                moves = [move * self.y[first + c] for c in range(EIGHT)]
                spread(self.slopes, moves, self._rows(first), self.columns)
        return select(better, new, now)

    def _rows(self, first: Value) -> Value:
        return self.packed + (self.at + first) * self.columns * 4

    def _along(self) -> Value:
        total = var(none())
        for i in loop(self.n):
            total += self.y[i] * self.slopes[self.at + i]
        return total.value

    def _curve(self) -> Value:
        total = var(none())
        for first in loop(0, self.n, EIGHT):
            rows = self._rows(first) + self.at * (4 * EIGHT)
            y = [self.y[first + c] for c in range(EIGHT)]
            for i in loop(self.n):
                inner = none()
                for c in range(EIGHT):
                    inner = fma(y[c], coefficient(rows + i * (4 * EIGHT), c), inner)
                total += inner * self.y[i]
        return total.value
