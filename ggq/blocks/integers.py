"""I8, I16, I32, I64: plain integers, stored only; as weights they are their numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from ggq.blocks._base import BlockType, fields
from ggq.jit.lang import Type, Value, f32, i8, i16, i32, i64, load


class _Integer(BlockType):
    weights = 1
    element: ClassVar[Type]

    def singles(self, address: Value, step: int) -> Iterator[tuple[int, Value]]:
        """Rounded to nearest single."""
        yield 0, load(self.element * step if step > 1 else self.element, address).to(f32)


class I8(_Integer):
    """Signed byte."""

    id = 24
    layout = fields(("x", "i1"))
    element = i8


class I16(_Integer):
    """Signed 16-bit integer."""

    id = 25
    layout = fields(("x", "<i2"))
    element = i16


class I32(_Integer):
    """Signed 32-bit integer."""

    id = 26
    layout = fields(("x", "<i4"))
    element = i32


class I64(_Integer):
    """Signed 64-bit integer."""

    id = 27
    layout = fields(("x", "<i8"))
    element = i64
