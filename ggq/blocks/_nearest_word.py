"""Kernel side of a codebook search: the nearest word for weights and scales in lanes.

Few of the points that the lanes ask for differ, since neighbouring scales give the same ones: the
neighbours of a point are gone through once for all lanes.
Source: llama.cpp ggml/src/ggml-quants.c, iq2_find_best_neighbour and iq3_find_best_neighbour.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from ggq.blocks._neighbours import OFF, ROW, Lattice
from ggq.jit.lang import (
    Value,
    const,
    f32,
    i32,
    i64,
    lane_bits,
    load,
    loop,
    lowest_bit,
    repeat_while,
    scratch,
    select,
    splat,
    store,
    u16,
    u32,
    var,
)

_LARGEST = 3.4028234663852886e38  # FLT_MAX: no distance above it counts


class Words(NamedTuple):
    """A lattice and the address of its table."""

    lattice: Lattice
    table: Value

    def levels(self, entry: Value) -> list[Value]:
        """i32 levels of each dim in entries."""
        bits = self.lattice.level_bits
        return [entry >> bits * i & ((1 << bits) - 1) for i in range(self.lattice.dims)]

    def nearest(
        self, levels: Sequence[Value], cost: Callable[[int, int], Value], wanted: Value | None
    ) -> Value:
        """i32 entries of the words that stand for points, in the lanes where it is `wanted`.

        `levels` i32, one vector a dim, are the points. `cost(i, level)` is f32, what a level of
        dim i costs; the cheapest neighbour is taken, the first of equally cheap ones.
        """
        lanes = levels[0].type.lanes
        point = self._point(levels)
        points = scratch(4 * lanes)
        store(points, point)
        costs = scratch(self.lattice.dims * self.lattice.levels * ROW)
        for i in range(self.lattice.dims):
            for level in range(self.lattice.levels):
                store(costs + (i * self.lattice.levels + level) * ROW, cost(i, level))
        found = var(const(i32 * lanes, 0))
        todo = var(lane_bits(wanted) if wanted is not None else const(u32, (1 << lanes) - 1))
        for _ in repeat_while(lambda: todo.ne(0)):
            this = load(i32, points + lowest_bit(todo).to(i64) * 4)
            same = point.eq(this)
            todo.set(todo & ~lane_bits(same))
            found.set(select(same, self._cheapest(this, costs, lanes), found))
        return found.value

    def _point(self, levels: Sequence[Value]) -> Value:
        """i32 number of the point."""
        point = levels[-1]
        for level in levels[-2::-1]:
            # Shifts, since vector products of integers are slow.
            tripled = self.lattice.levels == 3
            point = ((point << 1) + point if tripled else point << self.lattice.level_bits) + level
        return point

    def _cheapest(self, point: Value, costs: Value, lanes: int) -> Value:
        """i32[lanes] entries of the cheapest neighbours of one point."""
        head = self.table + (self.lattice.heads + point.to(i64) * 8)
        entry = self.table + (self.lattice.entries + load(i32, head).to(i64) * 4)
        chosen = var(splat(load(i32, entry), lanes))
        least = var(const(f32 * lanes, _LARGEST))
        for n in loop(load(i32, head + 4).to(i64)):
            word = load(i32, entry + n * 4)
            dims = self.lattice.dims
            row = self.table + (self.lattice.rows + (word >> 16 & 0x3FFF).to(i64) * (2 * dims))
            total = None
            for i in range(dims):
                term = load(f32 * lanes, costs + load(u16, row + 2 * i).to(i64))
                total = term if total is None else total + term
            assert total is not None
            nearer = total < least
            chosen.set(select(nearer, splat(word, lanes), chosen))
            least.set(select(nearer, total, least))
        return chosen.value


def is_off(entry: Value) -> Value:
    """Bit: the point an entry stands for is no word itself."""
    return (entry & OFF).ne(0)


def number(entry: Value) -> Value:
    """i32 number of an entry's word."""
    return entry >> 16 & 0x3FFF
