"""The KV cache of one layer, and what a type of cache has to do.

A block holds BLOCK positions of one head, first their keys, then their values, so that a thread
reads one sequential stream. Blocks follow each other: [kv head][position / BLOCK]. Within a block,
keys lie in strips of STRIP positions, each dimension of all of them side by side, so that the
scores of many positions come from one vector per dimension. Values lie row after row.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from ggq.jit.isa import target
from ggq.jit.lang import Value, f32, load, loop, splat, store

BLOCK = 128  # positions
STRIP = 16  # positions
HEAD_STEP = 8  # every head has a multiple of so many dimensions


class CacheType(ABC):
    """How the numbers of a key or value are kept; one of `TYPES` in cache_types.py.

    `group` dimensions take `group_bytes`, and share a scale if they are more than one. With
    `rotated` the numbers kept are turned by a Hadamard matrix, so that no outlier sets the scale.
    """

    name: ClassVar[str]
    group: ClassVar[int] = 1
    group_bytes: ClassVar[int]
    rotated: ClassVar[bool] = False

    def vector_bytes(self, dims: Any) -> Any:
        """Bytes of one key or value; for a number of dimensions or a kernel's value of it."""
        return dims // self.group * self.group_bytes

    @property
    def step(self) -> int:
        """Every head has a multiple of so many dimensions, if this type can hold it at all."""
        return max(self.group, HEAD_STEP)

    # -- keys ------------------------------------------------------------------------------------

    @abstractmethod
    def store_key(self, strip: Value, lane: Value, x: Value, dims: Value) -> None:
        """Keep x f32[dims] as the key of position `lane` of a strip."""

    @abstractmethod
    def read_keys(self, strip: Value, dims: Value, d: Value) -> list[Value]:
        """One f32[STRIP] for each of the dimensions d to d + HEAD_STEP; d a multiple of that."""

    def query_bytes(self, dims: Any) -> Any:
        """Bytes of a query as `scores` reads it."""
        return dims * 4

    def write_query(self, x: Value, dims: Value, scale: Value, out: Value) -> None:
        """Lay out x f32[dims] * scale for `scores`."""
        for d in loop(0, dims, HEAD_STEP):
            store(out + d * 4, load(f32 * HEAD_STEP, x + d * 4, 4) * scale, 4)

    @abstractmethod
    def scores(self, strip: Value, lane: int, dims: Value, queries: list[Value]) -> list[Value]:
        """f32[lanes of a vector] per query: its products with the keys from position `lane` on."""

    # -- values ----------------------------------------------------------------------------------

    @abstractmethod
    def store_value(self, values: Value, position: Value, x: Value, dims: Value) -> None:
        """Keep x f32[dims] as a value; `position` within the block."""

    @abstractmethod
    def read_value(
        self, values: Value, position: Value, dims: Value, d: Value, count: int
    ) -> list[Value]:
        """Vectors of dimensions d to d + count without their scales; count a multiple of step."""

    def value_scales(self, values: Value, first: Value, dims: Value, group: Value) -> Value | None:
        """f32[lanes of a vector]: scales of one group from position `first` on; None: all 1."""
        return None

    def value_scale(self, values: Value, position: Value, dims: Value, group: Value) -> Value:
        """f32 scalar: the scale of one group of a value. Only for types that have scales."""
        raise NotImplementedError


def pieces(dims: Value, whole: int, rest: int) -> list[tuple[Any, Any, int]]:
    """(begin, end, step): as much of `dims` as there is in steps of `whole`, then of `rest`."""
    end = dims - dims % whole
    return [(0, end, whole), (end, dims, rest)]


def broadcast(address: Value, lanes: int) -> Value:
    """The single at an address in every lane."""
    return splat(load(f32, address, 4), lanes)


class Cache:
    """One layer's cache inside a kernel: `blocks` for every head, from `address` on."""

    def __init__(
        self, keys: CacheType, values: CacheType, address: Value, blocks: Value, dims: Value
    ) -> None:
        self.key_type, self.value_type, self.dims = keys, values, dims
        self._address, self._blocks = address, blocks
        self.strip_bytes: Value = keys.vector_bytes(dims) * STRIP
        self._key_bytes: Value = keys.vector_bytes(dims) * BLOCK
        self._bytes: Value = self._key_bytes + values.vector_bytes(dims) * BLOCK

    def keys(self, head: Value, block: Value) -> Value:
        """Address of the keys of a block."""
        return self._address + (head * self._blocks + block) * self._bytes

    def values_behind(self, keys: Value) -> Value:
        """Address of the values of the block whose keys are at an address."""
        return keys + self._key_bytes

    def after(self, keys: Value) -> Value:
        """Address of the keys of the block behind the one whose keys are at an address."""
        return keys + self._bytes

    def store_key(self, head: Value, position: Value, x: Value) -> None:
        """Keep x f32[dims] as the key of a position."""
        within = position % BLOCK
        strip = self.keys(head, position // BLOCK) + within // STRIP * self.strip_bytes
        self.key_type.store_key(strip, within % STRIP, x, self.dims)

    def store_value(self, head: Value, position: Value, x: Value) -> None:
        """Keep x f32[dims] as the value of a position."""
        values = self.values_behind(self.keys(head, position // BLOCK))
        self.value_type.store_value(values, position % BLOCK, x, self.dims)


def block_bytes(keys: CacheType, values: CacheType, dims: int) -> int:
    """Bytes of one block of one head."""
    both: int = keys.vector_bytes(dims) + values.vector_bytes(dims)
    return both * BLOCK


def chains(queries: int) -> int:
    """Sums a query needs at once, so that no addition waits for the one before."""
    return {1: 4, 2: 2, 3: 2}.get(queries, 1)


def vector_lanes(count: int) -> int:
    """Singles of the vectors that `count` dimensions are read in."""
    return min(target().lanes, count)
