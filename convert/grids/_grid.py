"""What the grids share: w = d * scale * level + dmin * minimum, and how levels lie in bytes."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from ggq.blocks import BlockType, by_name

F16 = npt.NDArray[np.float16]
F32 = npt.NDArray[np.float32]
I8 = npt.NDArray[np.int8]
I16 = npt.NDArray[np.int16]
U8 = npt.NDArray[np.uint8]


class Plane(NamedTuple):
    """Some bits of every code, in a byte field.

    The field's bytes come in parts of `width`; a part holds `8 / bits` runs of `width` codes, run k
    in the bits from `bits * k` on. The first plane has the lowest bits of a code.
    """

    field: str
    bits: int
    width: int


class Parts(NamedTuple):
    """Rows of one type, w = d * scale * level + dmin * minimum.

    `d` f16[R, blocks]; `dmin` likewise, or None where the type has no minima; `scales` and `minima`
    i16[R, C / group]; `levels` i8[R, C].
    """

    d: F16
    dmin: F16 | None
    scales: I16
    minima: I16 | None
    levels: I8

    def steps(self) -> F32:
        """f32[R, C / group]: the distance of neighbouring integer levels."""
        return _times(self.d, self.scales)

    def offsets(self) -> F32:
        """f32[R, C / group]: the weight of level 0."""
        if self.dmin is None or self.minima is None:
            return np.zeros(self.scales.shape, np.float32)
        return _times(self.dmin, self.minima)

    def weights(self) -> F32:
        """f32[R, C]: what the rows decode to."""
        group = self.levels.shape[1] // self.scales.shape[1]
        step, offset = (np.repeat(x, group, axis=1) for x in (self.steps(), self.offsets()))
        return step * self.levels + offset


def _times(d: F16, factors: I16) -> F32:
    each = factors.shape[1] // d.shape[1]
    return np.repeat(d.astype(np.float32), each, axis=1) * factors


class Grid:
    """One tensor type. A subclass gives the class attributes, and how its scales lie in bytes.

    `group` weights share a scale. `levels` are those of code 0, 1, 2, ..., ascending. Scales are
    `scale_range`, from the first to the last, and minima likewise; a type whose blocks are its
    groups has 1 alone.
    """

    group: ClassVar[int]
    planes: ClassVar[tuple[Plane, ...]]
    levels: ClassVar[tuple[int, ...]]
    scale_range: ClassVar[tuple[int, int]] = (1, 1)
    minimum_range: ClassVar[tuple[int, int]] = (1, 1)
    d_field: ClassVar[str] = "d"
    dmin_field: ClassVar[str | None] = None
    dmin_sign: ClassVar[int] = 1

    @property
    def type(self) -> BlockType:
        """The tensor type."""
        return by_name(type(self).__name__)

    @property
    def has_minimum(self) -> bool:
        """Whether there is an offset."""
        return self.dmin_field is not None

    @property
    def is_even(self) -> bool:
        """Whether the levels are consecutive integers."""
        return self.levels[-1] - self.levels[0] == len(self.levels) - 1

    def unpack(self, rows: U8) -> Parts:
        """u8[R, row_bytes] -> the numbers in them."""
        blocks: Any = np.ascontiguousarray(rows).view(self.type.layout)
        scales, minima = self.read_scales(blocks)
        dmin = None
        if self.dmin_field:
            dmin = np.array(blocks[self.dmin_field])
            dmin = dmin if self.dmin_sign > 0 else -dmin
        table = np.array(self.levels, np.int8)
        codes = self._codes(blocks)
        levels = (codes.view(np.int8) + table[0]) if self.is_even else table[codes]
        R = len(rows)
        return Parts(
            np.array(blocks[self.d_field]),
            dmin,
            scales.astype(np.int16).reshape(R, -1),
            None if minima is None else minima.astype(np.int16).reshape(R, -1),
            levels.reshape(R, -1),
        )

    def pack(self, parts: Parts) -> U8:
        """The numbers as u8[R, row_bytes]; unpack's inverse."""
        R = len(parts.levels)
        out = np.zeros((R, self.type.row_bytes(parts.levels.shape[1])), np.uint8)
        blocks: Any = out.view(self.type.layout)
        blocks[self.d_field] = parts.d
        if self.dmin_field:
            assert parts.dmin is not None
            blocks[self.dmin_field] = parts.dmin if self.dmin_sign > 0 else -parts.dmin
        shape = (*blocks.shape, -1)
        minima = None if parts.minima is None else parts.minima.reshape(shape)
        self.write_scales(blocks, parts.scales.reshape(shape), minima)
        if self.is_even:
            codes = (parts.levels - np.int8(self.levels[0])).view(np.uint8)
        else:
            codes = np.searchsorted(self.levels, parts.levels).astype(np.uint8)
        self._put_codes(blocks, codes.reshape(shape))
        return out

    def read_scales(self, blocks: Any) -> tuple[Any, Any]:
        """(scales, minima) [R, blocks, groups] of records [R, blocks]; all 1 if not said."""
        ones = np.ones((*blocks.shape, 1), np.int16)
        return ones, ones if self.has_minimum else None

    def write_scales(self, blocks: Any, scales: Any, minima: Any) -> None:
        """Put what `read_scales` reads into records [R, blocks]."""

    def _codes(self, blocks: Any) -> U8:
        """u8[R, blocks, weights]"""
        codes = np.zeros((*blocks.shape, self.type.weights), np.uint8)
        shift = 0
        for plane in self.planes:
            runs = _runs(codes, plane)
            packed = blocks[plane.field].reshape(*blocks.shape, -1, plane.width)
            for k in range(runs.shape[-2]):
                piece = packed >> np.uint8(plane.bits * k) & np.uint8((1 << plane.bits) - 1)
                runs[..., k, :] |= piece << np.uint8(shift)
            shift += plane.bits
        return codes

    def _put_codes(self, blocks: Any, codes: U8) -> None:
        shift = 0
        for plane in self.planes:
            runs = _runs(codes, plane)
            packed = np.zeros((*runs.shape[:-2], plane.width), np.uint8)
            for k in range(runs.shape[-2]):
                piece = runs[..., k, :] >> np.uint8(shift) & np.uint8((1 << plane.bits) - 1)
                packed |= piece << np.uint8(plane.bits * k)
            blocks[plane.field] = packed.reshape(*blocks.shape, -1)
            shift += plane.bits


def _runs(codes: U8, plane: Plane) -> U8:
    """A view of u8[..., weights] as [..., part, run, width]."""
    return codes.reshape(*codes.shape[:-1], -1, 8 // plane.bits, plane.width)
