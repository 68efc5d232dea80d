"""The form of kernel any processor runs: what every form can do, in LLVM's portable terms."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from ggq.jit.lang import (
    Type,
    Value,
    concat,
    const,
    f32,
    i8,
    i16,
    i32,
    load,
    maximum,
    select,
    shuffle,
    splat,
    u16,
    u32,
    zeros,
)


class Generic:
    """Any processor: 16-byte vectors, no special instruction."""

    nbytes = 16  # of a vector
    panel_rows = 4  # rows of weights multiplied at once, in prefill ...
    tile_tokens = 4  # ... with so many tokens: as registers can hold sums for
    words_in_pairs = False  # whether `dot_tile` wants eight codes of a row together, not four
    pairs_dots = True  # whether two dots are scaled quicker by one `dot_pairs` than one by one
    adds_pairs = False  # whether dot_pairs is one instruction, which does the work of two fma
    signed_dot = True  # whether dot_signed costs no more than dot_unsigned
    gathers_bytes = False  # whether any byte shuffle of two vectors is one instruction
    looks_up_words = False  # whether there is a `lookup_words`, faster than a load for each word
    pause_intrinsic: tuple[str, Callable[[], list[Value]]] | None = None

    @property
    def lanes(self) -> int:
        """Singles in a vector."""
        return self.nbytes // 4

    def dot_unsigned(self, acc: Value, u: Value, s: Value) -> Value:
        """acc i32[n] + the four products u8 * i8 below each lane. u u8[4n], s i8[4n].

        u stays below 128, except in forms without `signed_dot`.
        """
        return acc + _sum4(u.to(i16) * s.to(i16))

    def dot_signed(self, acc: Value, w: Value, s: Value) -> Value:
        """acc i32[n] + the four products i8 * i8 below each lane. w, s i8[4n], w > -128."""
        return acc + _sum4(w.to(i16) * s.to(i16))

    def dot_pairs(self, acc: Value, a: Value, b: Value) -> Value:
        """acc i32[n] + the two products i16 * i16 below each lane. a, b i16[2n]."""
        product = a.to(i32) * b.to(i32)
        n = product.type.lanes
        return acc + shuffle(product, range(0, n, 2)) + shuffle(product, range(1, n, 2))

    def broadcasts(self, type: Type, address: Value, count: int, lanes: int) -> Iterator[Value]:
        """`count` values of four bytes that lie together, each in all lanes of a vector."""
        for k in range(count):
            yield splat(load(type, address + 4 * k, 4), lanes)

    def dot_tile(
        self, acc: list[Value], code: Type, weights: Value, activations: Value, words: int
    ) -> list[Value]:
        """Each token's acc i32[panel_rows] + its dots with 4 * words codes of every row.

        weights: address of code[words][panel_rows][4], or with `words_in_pairs` of
        code[words / 2][panel_rows][8]. activations: of i8[tile_tokens][4 * words].
        """
        acc, n = list(acc), 4 * self.panel_rows
        dot = self.dot_signed if code.kind == "i" else self.dot_unsigned
        for k in range(words):
            w = load(code * n, weights + k * n, 4)
            for t, x in enumerate(self.tile_words(activations, words, k)):
                acc[t] = dot(acc[t], w, x.bits(i8 * n))
        return acc

    def tile_words(self, activations: Value, words: int, k: int) -> Iterator[Value]:
        """Word k of `dot_tile`'s activations of each token, in every lane of i32[panel_rows]."""
        for t in range(self.tile_tokens):
            yield splat(load(i32, activations + 4 * (words * t + k), 4), self.panel_rows)

    def lookup16(self, table: Sequence[int], indices: Value) -> Value:
        """i8[n]: entries of a table of 16 signed bytes, picked by u8[n] indices below 16."""
        n = indices.type.lanes
        entries = [const(i8 * n, x) for x in table]
        for k in range(4):
            odd = (indices & (1 << k)).ne(0)
            pairs = zip(entries[::2], entries[1::2], strict=True)
            entries = [select(odd, b, a) for a, b in pairs]
        return entries[0]

    def set_bits(self, packed: Value) -> Value:
        """bit[8n]: the bits of u8[n], those of a byte from its lowest on."""
        n = 8 * packed.type.lanes
        each = shuffle(packed, [i // 8 for i in range(n)])
        return (each & const(each.type, [1 << i % 8 for i in range(n)])).ne(0)

    @property
    def looks_up_many(self) -> bool:
        """Whether `lookup_words` takes 64 indices too, in the time it takes for 32."""
        return False

    def lookup_words(self, table: Sequence[int], indices: Value) -> Value:
        """u16[n]: entries of a table of 64 * 2^k words of 16 bits, picked by u16[n] indices.

        n is 32, or 64 with `looks_up_many`, where the table has at least 128 words.
        """
        raise NotImplementedError

    def round_even(self, x: Value) -> Value:
        """f32[n] -> nearest integer as f32, halves to even; |x| < 2^22."""
        return (x + 12582912.0) - 12582912.0  # 1.5 * 2^23: the adder itself rounds

    def times_power_of_2(self, x: Value, n: Value) -> Value:
        """x * 2^n for f32 lanes, n whole and at most 127; 0 may be said where n is below -126."""
        power = (maximum(n, -127.0).to(i32) + 127) << 23
        return x * power.bits(x.type)

    def half_to_single(self, h: Value) -> Value:
        """f16 bits u16[n] -> f32[n], exact (subnormals, infinities and NaN included)."""
        x = h.to(u32)
        magnitude = x & 0x7FFF
        # Shifted into place the exponent is 112 too small; the product corrects it.
        scaled = (magnitude << 13).bits(f32 * h.type.lanes) * 5.192296858534828e33
        special = ((magnitude << 13) | 0x7F800000).bits(f32 * h.type.lanes)
        sign = (x & 0x8000) << 16
        number = select(magnitude >= 0x7C00, special, scaled)
        return (number.bits(u32 * h.type.lanes) | sign).bits(f32 * h.type.lanes)

    def single_to_half(self, x: Value) -> Value:
        """f32[n] -> f16 bits u16[n], nearest, halves to even."""
        n = x.type.lanes
        whole = x.bits(u32 * n)
        sign = (whole >> 16) & 0x8000
        magnitude = whole & 0x7FFFFFFF
        # Normal results: add half of the last kept bit, one less when it is even, drop 13.
        rounded = (magnitude + 0xC8000FFF + ((magnitude >> 13) & 1)) >> 13
        # Small results: adding 0.5 aligns the mantissa so that the float adder itself rounds.
        small = ((magnitude.bits(f32 * n) + 0.5).bits(u32 * n)) - 0x3F000000
        out = select(magnitude < 0x38800000, small, rounded)
        out = select(magnitude >= 0x47800000, const(u32 * n, 0x7C00), out)
        out = select(magnitude > 0x7F800000, const(u32 * n, 0x7E00), out)
        return (out | sign).to(u16)


def _sum4(products: Value) -> Value:
    n = products.type.lanes
    wide = products.to(i32)
    pairs = shuffle(wide, range(0, n, 2)) + shuffle(wide, range(1, n, 2))
    return shuffle(pairs, range(0, n // 2, 2)) + shuffle(pairs, range(1, n // 2, 2))


def in_parts(
    dot: Callable[[Value, Value, Value], Value], widest: int, acc: Value, a: Value, b: Value
) -> Value:
    """Split vectors that are too wide for one instruction, or pad those that are too narrow."""
    n, ratio = a.type.lanes, a.type.lanes // acc.type.lanes
    if n > widest:
        halves = []
        for k in range(2):
            part = range(k * n // 2, (k + 1) * n // 2)
            lanes = range(k * n // 2 // ratio, (k + 1) * n // 2 // ratio)
            halves.append(dot(shuffle(acc, lanes), shuffle(a, part), shuffle(b, part)))
        return concat(*halves)
    wide = [shuffle(v, [min(i, v.type.lanes) for i in range(2 * v.type.lanes)], zeros(v.type))
            for v in (acc, a, b)]  # fmt: skip
    return shuffle(dot(*wide), range(n // ratio))
