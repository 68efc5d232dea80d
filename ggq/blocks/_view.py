"""Blocks as kernels see them: named fields of a few consecutive blocks in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ggq.jit.isa import target
from ggq.jit.lang import Value, concat, load, shuffle, splat, u8, u16

if TYPE_CHECKING:
    from ggq.blocks._base import BlockType


class Blocks:
    """`count` consecutive blocks at an address; fields of all of them come as one vector.

    `repeat` is how often scalar fields are repeated, so that a scale can meet the lanes it scales.
    """

    def __init__(self, type: BlockType, address: Value, count: int = 1, repeat: int = 0) -> None:
        self.type = type
        self.address = address
        self.count = count
        self.repeat = repeat
        self._whole: tuple[Value, Value] | None = None
        self.found: list[Value] | None = None  # words of a codebook, where looked up beforehand

    def repeated(self, times: int) -> Blocks:
        """The same blocks with scalar fields repeated `times` times each."""
        other = Blocks(self.type, self.address, self.count, times)
        other._whole = self._whole
        return other

    def _at(self, field: str) -> tuple[int, int]:
        """Byte offset and byte length of a field."""
        assert self.type.layout.fields is not None
        dtype, offset = self.type.layout.fields[field][:2]
        return offset, dtype.itemsize

    def _in_registers(self) -> tuple[Value, Value] | None:
        """All bytes as two overlapping vectors, where picking bytes from those is cheap."""
        width, total = target().nbytes, self.count * self.type.nbytes
        if self.count == 1 or not target().gathers_bytes or not width < total <= 2 * width:
            return None
        if self._whole is None:
            tail = total - width
            self._whole = (load(u8 * width, self.address), load(u8 * width, self.address + tail))
        return self._whole

    def _pick(self, whole: tuple[Value, Value], offsets: list[int], type_bytes: int) -> Value:
        """Elements of `type_bytes` bytes at byte offsets within the blocks."""
        width, total = target().nbytes, self.count * self.type.nbytes
        first, second = whole
        if type_bytes == 2:
            first, second = (v.bits(u16 * (width // 2)) for v in whole)
        lanes = [o if o < width else width + o - (total - width) for o in offsets]
        return shuffle(first, [lane // type_bytes for lane in lanes], second)

    def bytes(self, field: str, start: int = 0, length: int = 0) -> Value:
        """u8[count * length]: part of a byte field of every block, block after block."""
        offset, size = self._at(field)
        offset, size = offset + start, length or size
        whole = self._in_registers()
        if whole:
            stride = self.type.nbytes
            picks = [stride * b + offset + j for b in range(self.count) for j in range(size)]
            return self._pick(whole, picks, 1)
        parts = [
            load(u8 * size, self.address + (b * self.type.nbytes + offset))
            for b in range(self.count)
        ]
        return concat(*parts)

    def spread(self, field: str, offsets: Sequence[int]) -> Value:
        """u8[count * len(offsets)]: chosen bytes of a byte field of every block."""
        start, size = self._at(field)
        whole = self._in_registers()
        if whole:
            stride = self.type.nbytes
            return self._pick(
                whole, [stride * b + start + o for b in range(self.count) for o in offsets], 1
            )
        each = [
            shuffle(load(u8 * size, self.address + (b * self.type.nbytes + start)), offsets)
            for b in range(self.count)
        ]
        return concat(*each)

    def half(self, field: str) -> Value:
        """A half precision field as f32: scalar, or f32[count * repeat] when repeating."""
        return self.words(field, to_single=True)

    def words(self, field: str, to_single: bool = False) -> Value:
        """A 16-bit field: scalar u16, or u16[count * repeat] when repeating."""
        offset, _ = self._at(field)
        convert = target().half_to_single if to_single else (lambda v: v)
        stride = self.type.nbytes
        whole = self._in_registers()
        if whole and offset % 2 == 0 and stride % 2 == 0 and (self.count * stride) % 2 == 0:
            picks = [stride * b + offset for b in range(self.count) for _ in range(self.repeat)]
            return convert(self._pick(whole, picks, 2))
        singles = [
            convert(splat(load(u16, self.address + (b * stride + offset)), max(self.repeat, 1)))
            for b in range(self.count)
        ]
        return concat(*singles) if self.repeat else singles[0][0]

    def byte(self, field: str) -> Value:
        """A one-byte field: scalar u8, or u8[count * repeat] when repeating."""
        offset, _ = self._at(field)
        singles = [
            splat(load(u8, self.address + (b * self.type.nbytes + offset)), max(self.repeat, 1))
            for b in range(self.count)
        ]
        return concat(*singles) if self.repeat else singles[0][0]
