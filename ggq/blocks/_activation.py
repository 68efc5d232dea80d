"""Activations as signed bytes with one scale per block, the partner of integer weights.

d = max|x| / 127, q = round(x / d). Same scheme as llama.cpp's Q8_0 and Q8_K, but the scale of a
block stays a single. Source: llama.cpp ggml-quants.c quantize_row_q8_0_ref, quantize_row_q8_K_ref.
"""

from __future__ import annotations

from ggq.jit.isa import target
from ggq.jit.lang import (
    Value,
    absolute,
    concat,
    const,
    f32,
    hmax,
    hsum,
    i8,
    i32,
    load,
    maximum,
    select,
    splat,
)  # fmt: skip

SMALLEST = 1e-30  # smaller ones count as zero, since 127 / peak must stay finite


class QuantizedBlock:
    """`n` activations at an address: codes as i8 vectors in order, and the scale."""

    def __init__(self, x: Value, n: int) -> None:
        lanes = min(target().lanes, 16)
        parts = [load(f32 * lanes, x + 4 * i, 4) for i in range(0, n, lanes)]
        peaks = [absolute(p) for p in parts]
        while len(peaks) > 1:
            peaks = [maximum(peaks[i], peaks[i + 1]) for i in range(0, len(peaks), 2)]
        peak = hmax(peaks[0])
        inverse = select(peak > SMALLEST, const(f32, 127.0) / peak, const(f32, 0.0))
        self.scale = peak * (1.0 / 127.0)
        self.numbers = [target().round_even(p * splat(inverse, lanes)).to(i32) for p in parts]
        self._lanes = lanes

    def codes(self, first: int, count: int) -> Value:
        """i8[count], count a multiple of the vector's singles or one vector's part."""
        parts = self.numbers[first // self._lanes : (first + count) // self._lanes]
        return concat(*parts).to(i8)

    def total(self, first: int, count: int) -> Value:
        """i32 scalar: sum of codes first..first+count."""
        parts = self.numbers[first // self._lanes : (first + count) // self._lanes]
        out = parts[0]
        for p in parts[1:]:
            out = out + p
        return hsum(out)
