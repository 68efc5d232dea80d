"""KV caches of integers that share a scale by 32, with the arithmetic of Q8_0 and Q4_0.

Keys: four dimensions of a position in four bytes, [dim / 4][STRIP][4] (half of it where a byte
holds two), then half precision scales [dim / 32][STRIP]. Values: [position][dim], then scales
[dim / 32][BLOCK]. Queries are rounded to bytes by 32 as well: scores are integer dot products.
Source: llama.cpp ggml-quants.c quantize_row_q8_0_ref, quantize_row_q4_0_ref.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

from ggq.blocks._activation import QuantizedBlock
from ggq.jit.isa import target
from ggq.jit.lang import (
    Value,
    concat,
    const,
    f32,
    fma,
    hmax,
    i8,
    i32,
    load,
    loop,
    minimum,
    select,
    shuffle,
    splat,
    split,
    store,
    u8,
    u16,
    var,
    zeros,
)
from ggq.runtime.kernels.cache import BLOCK, HEAD_STEP, STRIP, CacheType, vector_lanes

GROUP = 32
_SUM, _SCALE = GROUP, GROUP + 4  # of a group of a query, behind its codes
_QUERY_BYTES = GROUP + 8


class _Groups(CacheType):
    """A byte holds `per_byte` codes. A code of a key is `zero` above the number it stands for."""

    group = GROUP
    rotated = True
    per_byte: ClassVar[int]

    @property
    @abstractmethod
    def zero(self) -> int:
        """The code of 0 in a key."""

    @abstractmethod
    def quantized(self, x: Value) -> tuple[Value, Value]:
        """(i8[GROUP] numbers, f32 scale) of the f32[GROUP] at an address."""

    @abstractmethod
    def packed_key(self, numbers: Value) -> Value:
        """u8 of i8[GROUP], four dimensions to four bytes."""

    @abstractmethod
    def key_codes(self, packed: Value) -> list[Value]:
        """u8[n] codes of u8[n], each of the next four dimensions."""

    @abstractmethod
    def packed_value(self, numbers: Value) -> Value:
        """u8 of i8[GROUP]."""

    @abstractmethod
    def value_numbers(self, packed: Value) -> list[Value]:
        """i8 numbers in order, the inverse of `packed_value`."""

    def _dot(self, acc: Value, codes: Value, query: Value) -> Value:
        return target().dot_unsigned(acc, codes, query)

    def _number(self, codes: Value) -> Value:
        return codes.to(i32) - self.zero

    # -- keys ------------------------------------------------------------------------------------

    def _key_scales(self, strip: Value, dims: Value, group: Value, lane: int | Value) -> Value:
        return strip + dims // self.per_byte * STRIP + (group * STRIP + lane) * 2

    def store_key(self, strip: Value, lane: Value, x: Value, dims: Value) -> None:
        for group in loop(0, dims // GROUP):
            numbers, scale = self.quantized(x + group * (4 * GROUP))
            at = strip + (group * (GROUP // self.per_byte * STRIP) + lane * 4)
            for j, four in enumerate(split(self.packed_key(numbers), 4)):
                store(at + j * (4 * STRIP), four, 4)
            store(self._key_scales(strip, dims, group, lane), _half(scale), 2)

    def read_keys(self, strip: Value, dims: Value, d: Value) -> list[Value]:
        scales = _singles(self._key_scales(strip, dims, d // GROUP, 0), STRIP)
        at = strip + d // self.per_byte * STRIP
        out = []
        for j in range(0, HEAD_STEP // self.per_byte, 4):
            for codes in self.key_codes(load(u8 * (4 * STRIP), at + j * STRIP, 4)):
                for k in range(4):
                    number = self._number(shuffle(codes, range(k, 4 * STRIP, 4)))
                    out.append(number.to(f32) * scales)
        return out

    def query_bytes(self, dims: Any) -> Any:
        return dims // GROUP * _QUERY_BYTES

    def write_query(self, x: Value, dims: Value, scale: Value, out: Value) -> None:
        for group in loop(0, dims // GROUP):
            block, at = QuantizedBlock(x + group * (4 * GROUP), GROUP), out + group * _QUERY_BYTES
            store(at, block.codes(0, GROUP), 4)
            store(at + _SUM, block.total(0, GROUP) * -self.zero, 4)
            store(at + _SCALE, block.scale * scale, 4)

    def scores(self, strip: Value, lane: int, dims: Value, queries: list[Value]) -> list[Value]:
        lanes = target().lanes
        totals = [var(zeros(f32 * lanes)) for _ in queries]
        for group in loop(0, dims // GROUP):
            at = strip + (group * (GROUP // self.per_byte * STRIP) + lane * 4)
            places = [query + group * _QUERY_BYTES for query in queries]
            sums = [splat(load(i32, place + _SUM, 4), lanes) for place in places]
            step = 0
            for j in range(0, GROUP // self.per_byte, 4):
                for codes in self.key_codes(load(u8 * (4 * lanes), at + j * STRIP, 4)):
                    for k, place in enumerate(places):
                        four = splat(load(i32, place + step, 4), lanes).bits(i8 * (4 * lanes))
                        sums[k] = self._dot(sums[k], codes, four)
                    step += 4
            scales = _singles(self._key_scales(strip, dims, group, lane), lanes)
            for total, dot, place in zip(totals, sums, places, strict=True):
                scale = scales * splat(load(f32, place + _SCALE, 4), lanes)
                total.set(fma(dot.to(f32), scale, total))
        return [total.value for total in totals]

    # -- values ----------------------------------------------------------------------------------

    def _value_scales(self, values: Value, position: Value, dims: Value, group: Value) -> Value:
        return values + dims // self.per_byte * BLOCK + (group * BLOCK + position) * 2

    def store_value(self, values: Value, position: Value, x: Value, dims: Value) -> None:
        for group in loop(0, dims // GROUP):
            numbers, scale = self.quantized(x + group * (4 * GROUP))
            at = values + (position * dims + group * GROUP) // self.per_byte
            store(at, self.packed_value(numbers), GROUP // self.per_byte)
            store(self._value_scales(values, position, dims, group), _half(scale), 2)

    def read_value(
        self, values: Value, position: Value, dims: Value, d: Value, count: int
    ) -> list[Value]:
        row = values + (position * dims + d) // self.per_byte
        out = []
        for i in range(0, count // self.per_byte, GROUP // self.per_byte):
            for numbers in self.value_numbers(load(u8 * (GROUP // self.per_byte), row + i, 16)):
                out += [part.to(i32).to(f32) for part in split(numbers, vector_lanes(count))]
        return out

    def value_scales(self, values: Value, first: Value, dims: Value, group: Value) -> Value:
        return _singles(self._value_scales(values, first, dims, group), target().lanes)

    def value_scale(self, values: Value, position: Value, dims: Value, group: Value) -> Value:
        return _singles(self._value_scales(values, position, dims, group), 1)[0]


def _half(x: Value) -> Value:
    return target().single_to_half(splat(x, 8))[0]


def _singles(address: Value, lanes: int) -> Value:
    return target().half_to_single(load(u16 * lanes, address, 2))


class EightBits(_Groups):
    """x = d * q with q a signed byte."""

    name = "q8_0"
    group_bytes = 34
    per_byte = 1

    @property
    def zero(self) -> int:
        """Where only unsigned bytes have a quick dot product, codes are 128 above the number."""
        return 0 if target().signed_dot else 128

    def quantized(self, x: Value) -> tuple[Value, Value]:
        block = QuantizedBlock(x, GROUP)
        return block.codes(0, GROUP), block.scale

    def packed_key(self, numbers: Value) -> Value:
        return numbers.bits(u8 * GROUP) ^ self.zero

    def key_codes(self, packed: Value) -> list[Value]:
        return [packed]

    def _dot(self, acc: Value, codes: Value, query: Value) -> Value:
        if target().signed_dot:
            return target().dot_signed(acc, codes.bits(i8 * codes.type.lanes), query)
        return super()._dot(acc, codes, query)

    def _number(self, codes: Value) -> Value:
        return (codes ^ self.zero).bits(i8 * codes.type.lanes).to(i32)

    def packed_value(self, numbers: Value) -> Value:
        return numbers.bits(u8 * GROUP)

    def value_numbers(self, packed: Value) -> list[Value]:
        return [packed.bits(i8 * GROUP)]


class FourBits(_Groups):
    """x = d * (q - 8) with q of four bits; the number of largest magnitude is -8."""

    name = "q4_0"
    group_bytes = 18
    per_byte = 2
    zero = 8

    def quantized(self, x: Value) -> tuple[Value, Value]:
        lanes = min(target().lanes, 16)
        parts = [load(f32 * lanes, x + 4 * i, 4) for i in range(0, GROUP, lanes)]
        highest, lowest = _largest(parts), -_largest([-part for part in parts])
        scale = select(highest > -lowest, highest, lowest) / -8.0
        inverse = select(scale.ne(0), const(f32, 1.0) / scale, const(f32, 0.0))
        codes = [minimum((p * splat(inverse, lanes) + 8.5).to(i32), 15) for p in parts]
        return (concat(*codes) - 8).to(i8), scale

    def packed_key(self, numbers: Value) -> Value:
        fours = split((numbers + 8).bits(u8 * GROUP), 4)
        return concat(*(fours[k] | fours[k + 1] << 4 for k in range(0, len(fours), 2)))

    def key_codes(self, packed: Value) -> list[Value]:
        return [packed & 15, packed >> 4]

    def packed_value(self, numbers: Value) -> Value:
        low, high = split((numbers + 8).bits(u8 * GROUP), GROUP // 2)
        return low | high << 4

    def value_numbers(self, packed: Value) -> list[Value]:
        return [codes.bits(i8 * (GROUP // 2)) - 8 for codes in (packed & 15, packed >> 4)]


def _largest(parts: list[Value]) -> Value:
    most = parts[0]
    for part in parts[1:]:
        most = select(part > most, part, most)
    return hmax(most)
