"""64-bit ARM forms: NEON, NEON with byte dot products, NEON with byte matrix products.

Source of the intrinsics: LLVM llvm/include/llvm/IR/IntrinsicsAArch64.td.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from ggq.jit.generic import Generic, in_parts
from ggq.jit.lang import (
    Type,
    Value,
    call,
    concat,
    const,
    f16,
    f32,
    i8,
    i16,
    i32,
    load,
    rint,
    shuffle,
    split,
    u16,
    zeros,
)


def _yield() -> list[Value]:
    return [const(i32, 1)]


class Neon(Generic):
    """Any 64-bit ARM: sixteen bytes are multiplied eight at a time and summed in pairs."""

    panel_rows = 8
    tile_tokens = 8
    pairs_dots = False
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

    def dot_pairs(self, acc: Value, a: Value, b: Value) -> Value:
        n = a.type.lanes
        for lanes in (range(0, n, 2), range(1, n, 2)):
            acc = acc + shuffle(a, lanes).to(i32) * shuffle(b, lanes).to(i32)
        return acc

    def broadcasts(self, type: Type, address: Value, count: int, lanes: int) -> Iterator[Value]:
        for first in range(0, count, 4):
            # Instructions take a lane of a vector as their operand.
            four = load(type * 4, address + 4 * first, 4)
            for lane in range(4):
                yield shuffle(four, [lane] * lanes)

    def tile_words(self, activations: Value, words: int, k: int) -> Iterator[Value]:
        for t in range(self.tile_tokens):
            four = load(i32 * 4, activations + 4 * (words * t + k // 4 * 4), 4)
            yield shuffle(four, [k % 4] * self.panel_rows)

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

    _sdot: ClassVar = {8: "sdot.v2i32.v8i8", 16: "sdot.v4i32.v16i8"}

    def dot_signed(self, acc: Value, w: Value, s: Value) -> Value:
        n = w.type.lanes
        if n not in self._sdot:
            return in_parts(self.dot_signed, 16, acc, w, s)
        return call(f"llvm.aarch64.neon.{self._sdot[n]}", i32 * (n // 4), acc, w, s)


class I8mm(DotProd):
    """NEON with products of matrices of bytes: two rows by two tokens, eight bytes of each."""

    words_in_pairs = True

    def dot_tile(
        self, acc: list[Value], code: Type, weights: Value, activations: Value, words: int
    ) -> list[Value]:
        rows, tokens, quad = self.panel_rows, self.tile_tokens, i32 * 4
        name = "llvm.aarch64.neon.smmla.v4i32.v16i8"
        sums = {(i, j): zeros(quad) for i in range(rows // 2) for j in range(tokens // 2)}
        for k in range(0, words, 4):
            x = [load(i8 * 16, activations + 4 * (words * t + k), 4) for t in range(tokens)]
            for half in range(2):
                eight = [*range(8 * half, 8 * half + 8), *range(8 * half + 16, 8 * half + 24)]
                both = [shuffle(x[t], eight, x[t + 1]) for t in range(0, tokens, 2)]
                at = weights + (k + 2 * half) * (4 * rows)
                w = [load(i8 * 16, at + 16 * i, 4) for i in range(rows // 2)]
                for i, j in sums:
                    sums[i, j] = call(name, quad, sums[i, j], w[i], both[j])
        out = []
        for t in range(tokens):
            # A sum holds row 0 with both tokens, then row 1 with both.
            lanes = [t % 2 + 2 * row for row in range(4)]
            pairs = [(sums[i, t // 2], sums[i + 1, t // 2]) for i in range(0, rows // 2, 2)]
            out.append(acc[t] + concat(*(shuffle(a, lanes, b) for a, b in pairs)))
        return out
