"""KV caches of floating point numbers: keys [dim][STRIP], values [position][dim]."""

from __future__ import annotations

from abc import abstractmethod

from ggq.jit.isa import target
from ggq.jit.lang import Type, Value, f32, fma, load, loop, store, u16, u32, var, zeros
from ggq.runtime.kernels.cache import (
    HEAD_STEP,
    STRIP,
    CacheType,
    broadcast,
    chains,
    vector_lanes,
)


class _Floats(CacheType):
    """`element` is the type in memory."""

    element: Type

    @abstractmethod
    def singles(self, x: Value) -> Value:
        """f32[n] of element[n]."""

    @abstractmethod
    def rounded(self, x: Value) -> Value:
        """element[n] of f32[n]."""

    def _load(self, address: Value, lanes: int) -> Value:
        return self.singles(load(self.element * lanes, address, self.group_bytes))

    def store_key(self, strip: Value, lane: Value, x: Value, dims: Value) -> None:
        size = self.group_bytes
        for d in loop(0, dims, HEAD_STEP):
            numbers = self.rounded(load(f32 * HEAD_STEP, x + d * 4, 4))
            for j in range(HEAD_STEP):
                store(strip + ((d + j) * STRIP + lane) * size, numbers[j], size)

    def read_keys(self, strip: Value, dims: Value, d: Value) -> list[Value]:
        rows = (strip + (d + j) * (STRIP * self.group_bytes) for j in range(HEAD_STEP))
        return [self._load(row, STRIP) for row in rows]

    def scores(self, strip: Value, lane: int, dims: Value, queries: list[Value]) -> list[Value]:
        lanes, count = target().lanes, chains(len(queries))
        sums = [[var(zeros(f32 * lanes)) for _ in range(count)] for _ in queries]
        for d in loop(0, dims, HEAD_STEP):
            for j in range(HEAD_STEP):
                key = self._load(strip + ((d + j) * STRIP + lane) * self.group_bytes, lanes)
                for query, parts in zip(queries, sums, strict=True):
                    part = parts[j % count]
                    part.set(fma(broadcast(query + (d + j) * 4, lanes), key, part))
        return [_total([part.value for part in parts]) for parts in sums]

    def store_value(self, values: Value, position: Value, x: Value, dims: Value) -> None:
        for d in loop(0, dims, HEAD_STEP):
            numbers = self.rounded(load(f32 * HEAD_STEP, x + d * 4, 4))
            size = self.group_bytes
            store(values + (position * dims + d) * size, numbers, size)

    def read_value(
        self, values: Value, position: Value, dims: Value, d: Value, count: int
    ) -> list[Value]:
        lanes = vector_lanes(count)
        row = values + (position * dims + d) * self.group_bytes
        return [self._load(row + i * self.group_bytes, lanes) for i in range(0, count, lanes)]


def _total(parts: list[Value]) -> Value:
    while len(parts) > 1:
        parts = [a + b for a, b in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


class F32(_Floats):
    """Singles, as they are."""

    name = "f32"
    group_bytes = 4
    element = f32

    def singles(self, x: Value) -> Value:
        return x

    def rounded(self, x: Value) -> Value:
        return x


class F16(_Floats):
    """Half precision: 11 bits of mantissa."""

    name = "f16"
    group_bytes = 2
    element = u16

    def singles(self, x: Value) -> Value:
        return target().half_to_single(x)

    def rounded(self, x: Value) -> Value:
        return target().single_to_half(x)


class BF16(_Floats):
    """The upper half of a single: 8 bits of mantissa."""

    name = "bf16"
    group_bytes = 2
    element = u16

    def singles(self, x: Value) -> Value:
        return (x.to(u32) << 16).bits(f32 * x.type.lanes)

    def rounded(self, x: Value) -> Value:
        """Nearest, halves to even. Source: ggml-impl.h ggml_compute_fp32_to_bf16."""
        bits = x.bits(u32 * x.type.lanes)
        rounded = (bits + ((bits >> 16 & 1) + 0x7FFF)) >> 16
        return rounded.to(u16)
