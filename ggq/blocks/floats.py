"""F64, F32, F16, BF16: plain floating point, one weight a block."""

from __future__ import annotations

from collections.abc import Iterator

from ggq.blocks._base import BlockType, fields
from ggq.blocks._fixed import FixedFrame
from ggq.blocks._float import FloatFrame
from ggq.blocks._frame import Frame
from ggq.blocks._lanes import Lanes, lanes
from ggq.jit.isa import target
from ggq.jit.lang import Type, Value, f32, f64, load, u16, u32


def _read(type: Type, address: Value, step: int) -> Value:
    return load(type * step if step > 1 else type, address)


class F32(BlockType):
    """IEEE single precision."""

    id = 0
    weights = 1
    layout = fields(("x", "<f4"))

    def singles(self, address: Value, step: int) -> Iterator[tuple[int, Value]]:
        """As stored."""
        yield 0, _read(f32, address, step)

    def quantize_lanes(self, b: Lanes) -> None:
        """As it is."""
        b.put("x", b.x[0])


class _Short(BlockType):
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
    weights = 1
    layout = fields(("x", "<f2"))

    def widened(self, bits: Value) -> Value:
        """By instruction where there is one."""
        return target().half_to_single(bits)

    def quantize_lanes(self, b: Lanes) -> None:
        """Nearest, halves to even."""
        b.put_half("x", b.x[0])


class F64(BlockType):
    """IEEE double precision."""

    id = 28
    weights = 1
    layout = fields(("x", "<f8"))

    def singles(self, address: Value, step: int) -> Iterator[tuple[int, Value]]:
        """Rounded to nearest single."""
        yield 0, _read(f64, address, step).to(f32)

    def quantize_lanes(self, b: Lanes) -> None:
        """Exact."""
        b.put("x", b.x[0].to(f64))


class BF16(_Short):
    """The upper half of a single: 8 exponent bits, 7 mantissa bits."""

    id = 30
    weights = 1
    layout = fields(("x", "<u2"))

    def widened(self, bits: Value) -> Value:
        """The lower half is zero."""
        return (bits.to(u32) << 16).bits(f32 * bits.type.lanes)

    def quantize_lanes(self, b: Lanes) -> None:
        """Nearest, halves to even. Source: llama.cpp ggml-impl.h, ggml_compute_fp32_to_bf16."""
        bits = b.x[0].bits(lanes(u32))
        rounded = (bits + ((bits >> 16 & 1) + 0x7FFF)) >> 16
        b.refuse((rounded & 0x7FFF) >= 0x7F80)
        b.put("x", rounded.to(u16))
