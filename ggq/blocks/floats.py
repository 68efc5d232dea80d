"""F64, F32, F16, BF16: plain floating point, one weight a block."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from ggq.blocks._base import BlockType, fields
from ggq.blocks._fixed import FixedFrame
from ggq.blocks._float import FloatFrame
from ggq.blocks._frame import Frame
from ggq.blocks._lanes import INFINITE, Lanes, magnitude
from ggq.jit.isa import target
from ggq.jit.lang import Type, Value, f32, f64, load, shuffle, u16, u32


def _read(type: Type, address: Value, step: int) -> Value:
    return load(type * step if step > 1 else type, address)


class _Plain(BlockType):
    """One number a block; singles from the one with the bits `infinite` on would be infinite."""

    weights = 1
    loads_lanes = False
    infinite: ClassVar[int] = INFINITE

    def rounded(self, x: Value) -> Value:
        """f32[n] -> as stored, nearest, halves to even."""
        raise NotImplementedError

    def quantize_lanes(self, b: Lanes) -> None:
        """Number by number."""
        x = b.singles()
        b.refuse(magnitude(x) >= self.infinite)
        b.put_singles(self.rounded(x))


class F32(_Plain):
    """IEEE single precision."""

    id = 0
    layout = fields(("x", "<f4"))

    def singles(self, address: Value, step: int) -> Iterator[tuple[int, Value]]:
        """As stored."""
        yield 0, _read(f32, address, step)

    def rounded(self, x: Value) -> Value:
        """As it is."""
        return x


class _Short(_Plain):
    """Sixteen bits."""

    def widened(self, bits: Value) -> Value:
        """u16[n] -> f32[n], exact."""
        raise NotImplementedError

    def singles(self, address: Value, step: int) -> Iterator[tuple[int, Value]]:
        """Exact: every one is a single."""
        w = self.widened(load(u16 * step, address))
        yield 0, w if step > 1 else w[0]

    def frame(self) -> Frame:
        """Integers of 16 bits where they are faster."""
        return FixedFrame(self, self.widened) if target().adds_pairs else FloatFrame(self)


class F16(_Short):
    """IEEE half precision."""

    id = 1
    layout = fields(("x", "<f2"))
    infinite = 0x477FF000  # 65520

    def widened(self, bits: Value) -> Value:
        """By instruction where there is one."""
        return target().half_to_single(bits)

    def rounded(self, x: Value) -> Value:
        """By instruction where there is one."""
        return target().single_to_half(x)


class F64(_Plain):
    """IEEE double precision."""

    id = 28
    layout = fields(("x", "<f8"))

    def singles(self, address: Value, step: int) -> Iterator[tuple[int, Value]]:
        """Rounded to nearest single."""
        yield 0, _read(f64, address, step).to(f32)

    def rounded(self, x: Value) -> Value:
        """Exact."""
        return x.to(f64)


class BF16(_Short):
    """The upper half of a single: 8 exponent bits, 7 mantissa bits."""

    id = 30
    layout = fields(("x", "<u2"))
    infinite = 0x7F7F8000

    def widened(self, bits: Value) -> Value:
        """The lower half is zero."""
        return (bits.to(u32) << 16).bits(f32 * bits.type.lanes)

    def rounded(self, x: Value) -> Value:
        """Source: llama.cpp ggml-impl.h, ggml_compute_fp32_to_bf16."""
        n = x.type.lanes
        bits = x.bits(u32 * n)
        upper = (bits + ((bits >> 16 & 1) + 0x7FFF)).bits(u16 * (2 * n))
        return shuffle(upper, range(1, 2 * n, 2))
