"""Blocks of the KV cache unpacked for a tile of queries, and the arithmetic on them.

Keys lie in strips, dimension by dimension; values position by position. `Singles` takes all numbers
as they are. `Shorts` makes integers of 16 bits of them, two of which some processors multiply and
add at once: every query, key and value becomes a vector of integers whose norm is LONGEST, so that
by Cauchy and Schwarz no sum of products leaves its 32 bits, and the weights of a block become
shares of their sum. That loses no more than a cache of half precision does, and what is lost of a
token does not depend on the tokens beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

from ggq.jit.isa import target
from ggq.jit.lang import (
    Value,
    const,
    f32,
    fma,
    hsum,
    i16,
    i32,
    load,
    loop,
    maximum,
    minimum,
    scratch,
    select,
    splat,
    sqrt,
    store,
    var,
    zeros,
)
from ggq.runtime.kernels.cache import (
    BLOCK,
    HEAD_STEP,
    STRIP,
    Cache,
    broadcast,
    pieces,
    vector_lanes,
)

Number = TypeVar("Number", int, Value)
LONGEST = 32767.0
_NOTHING = 1e-30  # what is not larger counts as 0: its inverse may be infinite
_ROUNDER = 12582912.0  # 1.5 * 2^23: adding it leaves the nearest integer in the lowest bits


class Singles:
    """Keys [dim][STRIP], values [position][dim], queries [dim], weights [position]."""

    name = "singles"
    rounds = False  # whether weights become shares, with `value_scales`

    def vector_bytes(self, dims: Number) -> Number:
        """Bytes of a query, key or value."""
        return dims * 4

    def write_query(self, x: Value, dims: Value, scale: Value, out: Value) -> None:
        """Lay out x f32[dims] * scale."""
        for d in loop(0, dims, HEAD_STEP):
            store(out + d * 4, load(f32 * HEAD_STEP, x + d * 4, 4) * scale, 4)

    def pack_keys(self, layer: Cache, strip: Value, out: Value) -> None:
        """Unpack one strip."""
        for d in loop(0, layer.dims, HEAD_STEP):
            for j, row in enumerate(layer.key_type.read_keys(strip, layer.dims, d)):
                store(out + (d + j) * (STRIP * 4), row, 4)

    def pack_values(
        self, layer: Cache, values: Value, begin: Value, end: Value, out: Value
    ) -> None:
        """Unpack the values of positions begin..end of a block."""
        for at in loop(begin, end):
            for d, step in _steps(layer):
                place = out + (at * layer.dims + d) * 4
                for j, vector in enumerate(_value(layer, values, at, d, step)):
                    store(place + j * vector.type.nbytes, vector, 4)

    def scores(self, columns: list[Value], dims: Value, queries: list[Value]) -> list[list[Value]]:
        """f32[lanes] of every query and column, which is the address of the first of some keys."""
        lanes = target().lanes
        sums = [[var(zeros(f32 * lanes)) for _ in columns] for _ in queries]
        for d in loop(dims):
            keys = [load(f32 * lanes, column + d * (STRIP * 4), 4) for column in columns]
            for query, parts in zip(queries, sums, strict=True):
                number = broadcast(query + d * 4, lanes)
                for key, part in zip(keys, parts, strict=True):
                    part.set(fma(number, key, part))
        return [[part.value for part in parts] for parts in sums]

    def value_scales(self, values: Value, dims: Value, at: Value) -> Value:
        """f32[lanes] that weights from position `at` on are to be multiplied by."""
        raise NotImplementedError

    def weighted_sums(
        self, values: Value, dims: Value, d: Value, step: int, rows: list[Value], first: Value,
        end: Value, shares: Value,
    ) -> list[list[Value]]:  # fmt: skip
        """f32 vectors of dimensions d to d + step of each row: values of first..end by its weights.

        `rows` are addresses of weights; `shares` of what one is worth, f32[rows], if rounded.
        """
        lanes = vector_lanes(step)
        sums = [[var(zeros(f32 * lanes)) for _ in range(0, step, lanes)] for _ in rows]
        for at in loop(first, end):
            value = values + (at * dims + d) * 4
            numbers = [load(f32 * lanes, value + j * 4, 4) for j in range(0, step, lanes)]
            for weights, parts in zip(rows, sums, strict=True):
                factor = broadcast(weights + at * 4, lanes)
                for number, part in zip(numbers, parts, strict=True):
                    part.set(fma(factor, number, part))
        return [[part.value for part in parts] for parts in sums]


class Shorts(Singles):
    """Keys [dim / 2][STRIP][2], then scales [STRIP]; values [position / 2][dim][2], then [BLOCK].

    Queries [dim], then their scale; weights [position].
    """

    name = "shorts"
    rounds = True

    def vector_bytes(self, dims: Number) -> Number:
        return dims * 2 + 4

    def write_query(self, x: Value, dims: Value, scale: Value, out: Value) -> None:
        square = var(zeros(f32 * HEAD_STEP))
        for d in loop(0, dims, HEAD_STEP):
            part = load(f32 * HEAD_STEP, x + d * 4, 4)
            square.set(fma(part, part, square))
        inverse, own = _unit(hsum(square))
        for d in loop(0, dims, HEAD_STEP):
            store(out + d * 2, shorts(load(f32 * HEAD_STEP, x + d * 4, 4) * inverse), 4)
        store(out + dims * 2, own * scale, 4)

    def pack_keys(self, layer: Cache, strip: Value, out: Value) -> None:
        square = var(zeros(f32 * STRIP))
        for d in loop(0, layer.dims, HEAD_STEP):
            square += _squares(layer.key_type.read_keys(strip, layer.dims, d))
        inverse, scale = _unit(square.value)
        for d in loop(0, layer.dims, HEAD_STEP):
            rows = [row * inverse for row in layer.key_type.read_keys(strip, layer.dims, d)]
            for j in range(0, HEAD_STEP, 2):
                store(out + (d + j) * (STRIP * 2), _pairs(rows[j], rows[j + 1]), 4)
        store(out + layer.dims * (2 * STRIP), scale, 4)

    def pack_values(
        self, layer: Cache, values: Value, begin: Value, end: Value, out: Value
    ) -> None:
        dims, lanes = layer.dims, target().lanes
        scales, inverses = out + dims * (2 * BLOCK), scratch(4 * BLOCK)
        for at in loop(0, BLOCK, lanes):
            store(scales + at * 4, zeros(f32 * lanes), 4)
        for at in loop(begin, end):
            square = var(const(f32, 0.0))
            for d, step in _steps(layer):
                square += hsum(_squares(_value(layer, values, at, d, step)))
            inverse, scale = _unit(square.value)
            store(inverses + at * 4, inverse, 4)
            store(scales + at * 4, scale, 4)
        for at in loop(begin // 2 * 2, end, 2):
            # A position without a partner comes twice; the other one's weight is 0.
            two = maximum(at, begin), minimum(at + 1, end - 1)
            by = [load(f32, inverses + position * 4, 4) for position in two]
            for d, step in _steps(layer):
                place = out + (at * dims * 2 + d * 4)
                both = (_value(layer, values, position, d, step) for position in two)
                for j, (low, high) in enumerate(zip(*both, strict=True)):
                    whole = _pairs(low * by[0], high * by[1])
                    store(place + j * whole.type.nbytes, whole, 4)

    def scores(self, columns: list[Value], dims: Value, queries: list[Value]) -> list[list[Value]]:
        lanes = target().lanes
        sums = [[var(zeros(i32 * lanes)) for _ in columns] for _ in queries]
        for d in loop(0, dims, 2):
            keys = [load(i16 * (2 * lanes), column + d * (STRIP * 2), 4) for column in columns]
            _add_products(sums, [query + d * 2 for query in queries], keys)
        scales = [load(f32 * lanes, column + dims * (2 * STRIP), 4) for column in columns]
        owns = [broadcast(query + dims * 2, lanes) for query in queries]
        return [
            [part.to(f32) * (scale * own) for part, scale in zip(parts, scales, strict=True)]
            for parts, own in zip(sums, owns, strict=True)
        ]

    def value_scales(self, values: Value, dims: Value, at: Value) -> Value:
        return load(f32 * target().lanes, values + (dims * (2 * BLOCK) + at * 4), 4)

    def weighted_sums(
        self, values: Value, dims: Value, d: Value, step: int, rows: list[Value], first: Value,
        end: Value, shares: Value,
    ) -> list[list[Value]]:  # fmt: skip
        lanes = vector_lanes(step)
        sums = [[var(zeros(i32 * lanes)) for _ in range(0, step, lanes)] for _ in rows]
        for at in loop(first // 2 * 2, end, 2):
            value = values + (at * dims * 2 + d * 4)
            numbers = [load(i16 * (2 * lanes), value + j * 4, 4) for j in range(0, step, lanes)]
            _add_products(sums, [weights + at * 2 for weights in rows], numbers)
        return [
            [part.to(f32) * broadcast(shares + k * 4, lanes) for part in parts]
            for k, parts in enumerate(sums)
        ]


SINGLES, SHORTS = Singles(), Shorts()


def panel_for(rounded: bool) -> Singles:
    """The fastest arithmetic; on numbers that were `rounded` before, one that rounds them again."""
    return SHORTS if rounded and target().adds_pairs else SINGLES


def shorts(x: Value) -> Value:
    """i16[n]: the nearest integers."""
    return (x + _ROUNDER).bits(i32 * x.type.lanes).to(i16)


def share_out(totals: Value) -> tuple[Value, Value]:
    """(what makes shares of weights that sum up to `totals`, what a share is worth)."""
    totals = maximum(totals, _NOTHING)
    return LONGEST / totals, totals * (1 / LONGEST)


def _steps(layer: Cache) -> Iterator[tuple[Value, int]]:
    """Loops over the dimensions of a value: (first, how many)."""
    step = layer.value_type.step
    for begin, stop, width in pieces(layer.dims, max(step, 2 * target().lanes), step):
        for d in loop(begin, stop, width):
            yield d, width


def _value(layer: Cache, values: Value, position: Value, d: Value, count: int) -> list[Value]:
    value_type, dims = layer.value_type, layer.dims
    vectors = value_type.read_value(values, position, dims, d, count)
    if value_type.group == 1:
        return vectors
    group, lanes = value_type.group, vectors[0].type.lanes
    scales = [
        value_type.value_scale(values, position, dims, (d + i) // group)
        for i in range(0, count, group)
    ]
    return [vector * scales[i * lanes // group] for i, vector in enumerate(vectors)]


def _squares(vectors: list[Value]) -> Value:
    total = vectors[0] * vectors[0]
    for x in vectors[1:]:
        total = fma(x, x, total)
    return total


def _unit(square: Value) -> tuple[Value, Value]:
    """(what a vector of that norm squared is multiplied by to have norm LONGEST, and after)."""
    norm = sqrt(square)
    inverse = select(square > _NOTHING, LONGEST / norm, zeros(square.type))
    return inverse, norm * (1 / LONGEST)


def _pairs(low: Value, high: Value) -> Value:
    """i32[n]: the nearest integers of both, side by side in 16 bits each."""
    low, high = ((x + _ROUNDER).bits(i32 * x.type.lanes) for x in (low, high))
    return (low & 0xFFFF) | (high << 16)


def _add_products(sums: list[list[Any]], numbers: list[Value], vectors: list[Value]) -> None:
    """Add the pair of integers at each address times each vector of pairs."""
    for address, parts in zip(numbers, sums, strict=True):
        lanes = parts[0].type.lanes
        pair = splat(load(i32, address, 4), lanes).bits(i16 * (2 * lanes))
        for vector, part in zip(vectors, parts, strict=True):
            part.set(target().dot_pairs(part, pair, vector))
