"""64-bit ARM forms: NEON, NEON with byte dot products, NEON with byte matrix products.

Source of the intrinsics: LLVM llvm/include/llvm/IR/IntrinsicsAArch64.td.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from ggq.jit.generic import Generic, in_parts
from ggq.jit.lang import (
    Value,
    call,
    concat,
    const,
    f16,
    f32,
    i8,
    i16,
    i32,
    rint,
    shuffle,
    split,
    u16,
)


def _yield() -> list[Value]:
    return [const(i32, 1)]


class Neon(Generic):
    """Any 64-bit ARM: sixteen bytes are multiplied eight at a time and summed in pairs."""

    pause_intrinsic = ("llvm.aarch64.hint", _yield)

    def dot_unsigned(self, acc: Value, u: Value, s: Value) -> Value:
        return self.dot_signed(acc, u.bits(i8 * u.type.lanes), s)

    def dot_signed(self, acc: Value, w: Value, s: Value) -> Value:
        n = w.type.lanes
        if n != 16:
            return in_parts(self.dot_signed, 16, acc, w, s)
        products = w.to(i16) * s.to(i16)
        # Two products fit 16 bits: 2 * 127 * 127 < 2^15.
        pairs = shuffle(products, range(0, n, 2)) + shuffle(products, range(1, n, 2))
        return acc + call("llvm.aarch64.neon.saddlp.v4i32.v8i16", i32 * 4, pairs)

    def lookup16(self, table: Sequence[int], indices: Value) -> Value:
        n = indices.type.lanes
        entries = const(i8 * 16, list(table))
        width = min(n, 16)
        name = f"llvm.aarch64.neon.tbl1.v{width}i8"
        parts = split(indices, width) if n > width else [indices]
        return concat(*(call(name, i8 * width, entries, each) for each in parts))

    def round_even(self, x: Value) -> Value:
        return rint(x)

    def half_to_single(self, h: Value) -> Value:
        return h.bits(f16 * h.type.lanes).to(f32)

    def single_to_half(self, x: Value) -> Value:
        return x.to(f16).bits(u16 * x.type.lanes)


class DotProd(Neon):
    """NEON with the dot product of four signed bytes."""

    _signed: ClassVar = {8: "sdot.v2i32.v8i8", 16: "sdot.v4i32.v16i8"}

    def dot_signed(self, acc: Value, w: Value, s: Value) -> Value:
        return self._dot(self._signed, self.dot_signed, acc, w, s)

    def _dot(
        self, names: dict[int, str], whole: Callable[[Value, Value, Value], Value],
        acc: Value, a: Value, b: Value,
    ) -> Value:  # fmt: skip
        n = a.type.lanes
        if n not in names:
            return in_parts(whole, 16, acc, a, b)
        return call(f"llvm.aarch64.neon.{names[n]}", i32 * (n // 4), acc, a, b)


class I8mm(DotProd):
    """NEON with dot products of bytes of mixed signs."""

    _mixed: ClassVar = {8: "usdot.v2i32.v8i8", 16: "usdot.v4i32.v16i8"}

    def dot_unsigned(self, acc: Value, u: Value, s: Value) -> Value:
        return self._dot(self._mixed, self.dot_unsigned, acc, u, s)
