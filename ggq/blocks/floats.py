"""F64, F32, F16, BF16: plain floating point, one weight a block."""

from __future__ import annotations

from collections.abc import Iterator

from ggq.blocks._base import BlockType, fields
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


class F16(BlockType):
    """IEEE half precision."""

    id = 1
    weights = 1
    layout = fields(("x", "<f2"))

    def singles(self, address: Value, step: int) -> Iterator[tuple[int, Value]]:
        """Exact: every half is a single."""
        if step == 1:
            yield 0, target().half_to_single(load(u16 * 1, address))[0]
        else:
            yield 0, target().half_to_single(_read(u16, address, step))

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


class BF16(BlockType):
    """The upper half of a single: 8 exponent bits, 7 mantissa bits."""

    id = 30
    weights = 1
    layout = fields(("x", "<u2"))

    def singles(self, address: Value, step: int) -> Iterator[tuple[int, Value]]:
        """Exact: the lower half is zero."""
        x = _read(u16, address, step).to(u32) << 16
        yield 0, x.bits(f32 * step if step > 1 else f32)

    def quantize_lanes(self, b: Lanes) -> None:
        """Nearest, halves to even. Source: llama.cpp ggml-impl.h, ggml_compute_fp32_to_bf16."""
        bits = b.x[0].bits(lanes(u32))
        rounded = (bits + ((bits >> 16 & 1) + 0x7FFF)) >> 16
        b.refuse((rounded & 0x7FFF) >= 0x7F80)
        b.put("x", rounded.to(u16))
