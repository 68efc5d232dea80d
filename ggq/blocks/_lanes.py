"""Blocks being quantized, one in each SIMD lane: how a family's `quantize_lanes` sees them.

A search runs down the weights of its block in the order of the C code, in all lanes at once. Once
the scales are known the codes need no order, so they are made block by block, from contiguous
weights into contiguous bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ggq.jit.isa import target
from ggq.jit.lang import (
    Type,
    Value,
    Var,
    f32,
    i32,
    load,
    loop,
    maximum,
    minimum,
    scratch,
    select,
    splat,
    store,
    u8,
    u32,
    var,
    zeros,
)
from ggq.jit.transpose import transpose

if TYPE_CHECKING:
    from ggq.blocks._base import BlockType


INFINITE = 0x7F800000  # as bits of a single
TOO_LARGE = 0x51800000  # 2^36: no half precision scale reaches there, yet its cube is finite


def lanes(type: Type = f32) -> Type:
    """A vector of the type with one lane a block."""
    return type * target().lanes


class Tile:
    """Vectors in memory: element i holds number i of the block in each lane."""

    def __init__(self, length: int, type: Type = f32, address: Value | None = None) -> None:
        self.type, self.length = lanes(type), length
        self.address = scratch(length * self.type.nbytes) if address is None else address

    @classmethod
    def of(cls, *vectors: Value) -> Tile:
        """A tile of these vectors."""
        tile = cls(len(vectors), vectors[0].type.scalar)
        for i, x in enumerate(vectors):
            tile[i] = x
        return tile

    def __getitem__(self, i: Value | int) -> Value:
        return load(self.type, self.address + i * self.type.nbytes, self.type.nbytes)

    def __setitem__(self, i: Value | int, x: Value) -> None:
        store(self.address + i * self.type.nbytes, x, self.type.nbytes)

    def part(self, start: Value | int) -> Tile:
        """The same memory from element `start` on."""
        return Tile(0, self.type.scalar, self.address + start * self.type.nbytes)

    def lane(self, k: Value, i: Value | int = 0) -> Value:
        """Scalar: number i of the block in lane k."""
        size = self.type.scalar.nbytes
        return load(self.type.scalar, self.address + i * self.type.nbytes + k * size, size)


def blocks_at_once(family: BlockType) -> int:
    """Blocks a kernel quantizes at once: one a lane; of single weights two vectors."""
    return target().lanes * (2 if family.weights == 1 else 1)


class Block:
    """One of the blocks, its weights, codes and bytes contiguous. `lane` is its place in tiles."""

    def __init__(self, family: BlockType, lane: Value, x: Value, out: Value, codes: Value) -> None:
        self.lane = lane
        self.weights, self.step = family.weights, target().lanes
        self._family, self._x, self._out, self._codes = family, x, out, codes

    def x(self, i: Value | int) -> Value:
        """A full f32 vector of weights from number i on."""
        return load(lanes(), self._x + i * 4)

    def put(self, field: str, value: Value, at: Value | int = 0) -> None:
        """Write a scalar or vector into a field from its element `at` on."""
        store(self._out + (_offset(self._family, field) + at * value.type.scalar.nbytes), value)

    def set_codes(self, i: Value | int, codes: Value) -> None:
        """Keep small integers, i32 or u8, as codes i, i + 1, ..."""
        store(self._codes + i, codes.to(u8))

    def codes(self, i: Value | int, count: int) -> Value:
        """u8[count]: kept codes i, i + 1, ..."""
        return load(u8 * count, self._codes + i)


class Arguments(NamedTuple):
    """Of a quantizing kernel, see `ggq.blocks._quantize.quantize_kernel`."""

    x: Value
    out: Value
    groups: Value
    importance: Value
    columns: Value
    first: Value
    row_squares: Value
    tables: Value
    refused: Value


class Lanes:
    """As many blocks as the vector has lanes; `x` holds their weights, once they are loaded.

    `tables` is the address of what the family's `quantize_tables` gives.
    `refused` keeps the number of the first group in which a lane's block was refused.
    """

    def __init__(
        self, family: BlockType, weighted: bool, arguments: Arguments, group: Value, refused: Var
    ) -> None:
        at = group * blocks_at_once(family)
        self.family, self.weighted = family, weighted
        self._given, self._group, self._refused = arguments, group, refused
        self._x = arguments.x + at * (4 * family.weights)
        self._out = arguments.out + at * family.nbytes
        self._first = arguments.first + at
        self._codes = scratch(family.weights)
        self.tables = arguments.tables
        self.x = Tile(family.weights)
        if family.loads_lanes:
            self.load()

    def load(self) -> None:
        """Fill `x`, and refuse blocks with weights that cannot be stored."""
        n, stride = target().lanes, 4 * self.family.weights
        largest = var(zeros(lanes(i32)))
        for i in loop(0, self.family.weights, n):
            rows = [load(lanes(), self._x + (k * stride) + i * 4) for k in range(n)]
            for k, column in enumerate(transpose(rows)):
                self.x[i + k] = column
                largest.set(maximum(magnitude(column), largest))
        layout = self.family.layout
        has_half = any(layout[name] == np.float16 for name in layout.names or ())
        self.refuse(largest >= (TOO_LARGE if has_half else INFINITE))

    def refuse(self, where: Value) -> None:
        """Report the blocks where the condition holds: they cannot be stored."""
        group = splat(self._group.to(i32), where.type.lanes)
        self._refused.set(select(where, minimum(group, self._refused), self._refused))

    def importance(self, tile: Tile, start: Value | int, count: int) -> None:
        """Fill the tile with the importance of weights start, ..., start + count - 1."""
        n = target().lanes
        for i in loop(0, count, n):
            rows = [load(lanes(), self._importance_at(k, start) + i * 4) for k in range(n)]
            for k, column in enumerate(transpose(rows)):
                tile[i + k] = column

    def _importance_at(self, k: int, start: Value | int) -> Value:
        block = (self._first + k) % self._given.columns
        return self._given.importance + (block * self.family.weights + start) * 4

    def row_mean_square(self) -> Value:
        """f32: mean square of the whole row each block is in."""
        out = zeros(lanes())
        for k in range(target().lanes):
            row = (self._first + k) // self._given.columns
            out = out.with_lane(k, load(f32, self._given.row_squares + row * 4))
        return out

    def put(self, field: str, values: Tile | Value, count: int = 1) -> None:
        """Write `count` numbers a block into a field."""
        if isinstance(values, Value):
            values = Tile.of(values)
        for block in self.each():
            for i in loop(count):
                block.put(field, values.lane(block.lane, i), i)

    def half(self, x: Value) -> Value:
        """u16: a scale in half precision; an infinite one is refused."""
        half = target().single_to_half(x)
        self.refuse((half.to(u32) & 0x7FFF) >= 0x7C00)
        return half

    def put_half(self, field: str, x: Value) -> Value:
        """Write a scale in half precision, giving what was stored; an infinite one is refused."""
        half = self.half(x)
        self.put(field, half)
        return target().half_to_single(half)

    def block(self, k: Value) -> Block:
        """The block in lane k."""
        x, out = self._x + k * (4 * self.family.weights), self._out + k * self.family.nbytes
        return Block(self.family, k, x, out, self._codes)

    def each(self) -> Iterator[Block]:
        """A loop over the blocks."""
        for k in loop(target().lanes):
            yield self.block(k)

    def singles(self) -> Value:
        """f32[blocks at once]: the weights, where each is a block."""
        return load(f32 * blocks_at_once(self.family), self._x)

    def put_singles(self, values: Value) -> None:
        """Write what each of `singles` has become."""
        store(self._out, values)


def magnitude(x: Value) -> Value:
    """Bits of a single without its sign: in the order of the numbers, infinity and NaN above."""
    return x.bits(i32 * x.type.lanes) & 0x7FFFFFFF


def _offset(family: BlockType, field: str) -> int:
    assert family.layout.fields is not None
    return int(family.layout.fields[field][1])
