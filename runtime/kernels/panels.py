"""A block of the KV cache unpacked to singles for a tile of queries, and the arithmetic on it.

Keys: [dim][STRIP] in strips. Values: [position][dim]. Queries: [dim].
"""

from __future__ import annotations

from typing import Any

from ggq.jit.isa import target
from ggq.jit.lang import Value, f32, fma, load, loop, store, var, zeros
from ggq.runtime.kernels.cache import HEAD_STEP, STRIP, Cache, broadcast, pieces


def pack_keys(layer: Cache, strip: Value, out: Value) -> None:
    """Unpack one strip."""
    for d in loop(0, layer.dims, HEAD_STEP):
        for j, row in enumerate(layer.key_type.read_keys(strip, layer.dims, d)):
            store(out + (d + j) * (STRIP * 4), row, 4)


def pack_value(layer: Cache, values: Value, position: Value, out: Value) -> None:
    """Unpack one value."""
    step = layer.value_type.step
    for begin, stop, width in pieces(layer.dims, max(step, 2 * target().lanes), step):
        for d in loop(begin, stop, width):
            for j, vector in enumerate(_value(layer, values, position, d, width)):
                store(out + (d + j * vector.type.lanes) * 4, vector, 4)


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


def write_query(x: Value, dims: Value, scale: Value, out: Value) -> None:
    """Lay out x f32[dims] * scale for `scores`."""
    for d in loop(0, dims, HEAD_STEP):
        store(out + d * 4, load(f32 * HEAD_STEP, x + d * 4, 4) * scale, 4)


def scores(columns: list[Value], dims: Value, queries: list[Value]) -> list[list[Value]]:
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


def add_value(sums: list[list[Any]], weights: list[Value], value: Value, lanes: int) -> None:
    """Add weight * value to the sums of each row: vectors of `lanes` dimensions from `value` on."""
    count = len(sums[0])
    numbers = [load(f32 * lanes, value + j * (4 * lanes), 4) for j in range(count)]
    for weight, parts in zip(weights, sums, strict=True):
        factor = broadcast(weight, lanes)
        for number, part in zip(numbers, parts, strict=True):
            part.set(fma(factor, number, part))
