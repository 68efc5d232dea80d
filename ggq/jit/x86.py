"""x86-64 forms: AVX2, AVX2 with byte dot products (AVX-VNNI), AVX-512 with them.

Source of the intrinsics: LLVM llvm/include/llvm/IR/IntrinsicsX86.td.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from ggq.jit import cpu
from ggq.jit.generic import Generic, in_parts
from ggq.jit.lang import (
    Value,
    absolute,
    bit,
    call,
    const,
    f16,
    f32,
    i8,
    i16,
    i32,
    rint,
    select,
    shuffle,
    u8,
    u16,
)


class Avx2(Generic):
    """x86-64 with AVX2, FMA and F16C: 32-byte vectors, products of bytes summed in pairs."""

    nbytes = 32
    panel_rows = 8
    pause_intrinsic = ("llvm.x86.sse2.pause", list)
    _pmaddubsw: ClassVar = {16: "llvm.x86.ssse3.pmadd.ub.sw.128", 32: "llvm.x86.avx2.pmadd.ub.sw"}
    _pmaddwd: ClassVar = {
        8: "llvm.x86.sse2.pmadd.wd",
        16: "llvm.x86.avx2.pmadd.wd",
        32: "llvm.x86.avx512.pmaddw.d.512",
    }
    _psign: ClassVar = {16: "llvm.x86.ssse3.psign.b.128", 32: "llvm.x86.avx2.psign.b"}
    _pshufb: ClassVar = {
        16: "llvm.x86.ssse3.pshuf.b.128",
        32: "llvm.x86.avx2.pshuf.b",
        64: "llvm.x86.avx512.pshuf.b.512",
    }
    _widest = 32

    def dot_unsigned(self, acc: Value, u: Value, s: Value) -> Value:
        n = u.type.lanes
        if n > self._widest or n < 16:
            return in_parts(self.dot_unsigned, self._widest, acc, u, s)
        # Pairs of products are kept in 16 bits: 2 * 128 * 127 < 2^15.
        pairs = call(self._pmaddubsw[n], i16 * (n // 2), u, s)
        return self.dot_pairs(acc, pairs, const(i16 * (n // 2), 1))

    def dot_signed(self, acc: Value, w: Value, s: Value) -> Value:
        n = w.type.lanes
        if n > self._widest or n < 16:
            return in_parts(self.dot_signed, self._widest, acc, w, s)
        moved = call(self._psign[n], i8 * n, s, w)
        return self.dot_unsigned(acc, absolute(w).bits(u8 * n), moved)

    def dot_pairs(self, acc: Value, a: Value, b: Value) -> Value:
        n = a.type.lanes
        if n not in self._pmaddwd or 2 * n > self.nbytes:
            return in_parts(self.dot_pairs, self.nbytes // 2, acc, a, b)
        return acc + call(self._pmaddwd[n], i32 * (n // 2), a, b)

    def lookup16(self, table: Sequence[int], indices: Value) -> Value:
        n = indices.type.lanes
        if not 16 <= n <= self.nbytes:
            return super().lookup16(table, indices)
        return call(self._pshufb[n], i8 * n, const(i8 * n, list(table) * (n // 16)), indices)

    def round_even(self, x: Value) -> Value:
        return rint(x)

    def half_to_single(self, h: Value) -> Value:
        return h.bits(f16 * h.type.lanes).to(f32)

    def single_to_half(self, x: Value) -> Value:
        return x.to(f16).bits(u16 * x.type.lanes)


class AvxVnni(Avx2):
    """AVX2 with the byte dot product instruction."""

    adds_pairs = True
    signed_dot = False

    def dot_unsigned(self, acc: Value, u: Value, s: Value) -> Value:
        n = u.type.lanes
        if n not in (16, 32, 64) or n > self.nbytes:
            return in_parts(self.dot_unsigned, self.nbytes, acc, u, s)
        return call(f"llvm.x86.avx512.vpdpbusd.{8 * n}", i32 * (n // 4), acc, u, s)

    def dot_pairs(self, acc: Value, a: Value, b: Value) -> Value:
        n = a.type.lanes
        if n not in (8, 16, 32) or 2 * n > self.nbytes:
            return in_parts(self.dot_pairs, self.nbytes // 2, acc, a, b)
        return call(f"llvm.x86.avx512.vpdpwssd.{16 * n}", i32 * (n // 2), acc, a, b)


class Avx512(AvxVnni):
    """AVX-512 with VNNI: 64-byte vectors."""

    nbytes = 64
    panel_rows = 16
    tile_tokens = 8
    gathers_bytes = True
    looks_up_words = True

    def set_bits(self, packed: Value) -> Value:
        return packed.bits(bit * (8 * packed.type.lanes))

    @property
    def looks_up_many(self) -> bool:
        return "avx512vbmi" in cpu.machine().features

    def lookup_words(self, table: Sequence[int], indices: Value) -> Value:
        if indices.type.lanes == 64:
            return _lookup_by_bytes(table, indices)
        odd = [(indices & place).ne(0) for place in _places(64, len(table))]
        return _picked("llvm.x86.avx512.vpermi2var.hi.512", table, indices, odd)

    def times_power_of_2(self, x: Value, n: Value) -> Value:
        lanes = x.type.lanes
        if lanes not in (4, 8, 16):
            return super().times_power_of_2(x, n)
        name = f"llvm.x86.avx512.mask.scalef.ps.{32 * lanes}"
        always = [x, const(i16 if lanes == 16 else i8, -1)]
        rounding = [const(i32, 4)] if lanes == 16 else []
        return call(name, x.type, x, n, *always, *rounding)


def _lookup_by_bytes(table: Sequence[int], indices: Value) -> Value:
    """u16[64]: the lower and the upper bytes of words are picked apart."""
    low, high = (shuffle(n.bits(u8 * 128), range(0, 128, 2)) for n in (indices, indices >> 7))
    odd = [(high & place).ne(0) for place in _places(1, len(table) // 128)]
    first, second = (
        _picked("llvm.x86.avx512.vpermi2var.qi.512", plane, low, odd)
        for plane in ([word >> shift & 0xFF for word in table] for shift in (0, 8))
    )
    return shuffle(first, [k // 2 + k % 2 * 64 for k in range(128)], second).bits(u16 * 64)


def _places(first: int, end: int) -> list[int]:
    """Powers of 2."""
    return [1 << k for k in range(first.bit_length() - 1, end.bit_length() - 1)]


def _picked(name: str, table: Sequence[int], indices: Value, odd: list[Value]) -> Value:
    """Entries of a table by an instruction that picks from two vectors.

    `odd` tells of every bit of the index above those the instruction heeds whether it is set.
    """
    type, n = indices.type, indices.type.lanes
    if not odd:
        low, high = (const(type, table[i : i + n]) for i in (0, n))
        return call(name, type, low, indices, high)
    half = len(table) // 2
    low, high = (_picked(name, part, indices, odd[:-1]) for part in (table[:half], table[half:]))
    return select(odd[-1], high, low)
