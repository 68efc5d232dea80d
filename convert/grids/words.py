"""IQ1, IQ2 and IQ3 as numbers: words of a codebook, 4 or 8 weights each, with signs or a shift.

Layouts: llama.cpp ggml/src/ggml-common.h and the dequantize_row functions of ggml-quants.c.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from ggq.blocks import BlockType, _grids, by_name

F16 = npt.NDArray[np.float16]
F32 = npt.NDArray[np.float32]
I16 = npt.NDArray[np.int16]
U8 = npt.NDArray[np.uint8]
UNIT = 8  # weights that share their signs' parity


class WordParts(NamedTuple):
    """Rows of one type, w = d * unit * (2 scale + 1) * sign * level of a word.

    `d` f16[R, blocks]; `scales` i16[R, C / group]; `words` i16[R, C / dims]; `signs` u8[R, C / 8]:
    bit i is set where weight i of eight is negative.
    """

    d: F16
    scales: I16
    words: I16
    signs: U8


class WordGrid:
    """One tensor type. `group` weights share a scale; `even_signs`: minus signs come in pairs."""

    group: ClassVar[int]
    codebook: ClassVar[_grids.Grid]
    unit: ClassVar[float]
    even_signs: ClassVar[bool]
    largest_scale: ClassVar[int] = 15

    @property
    def type(self) -> BlockType:
        """The tensor type."""
        return by_name(type(self).__name__)

    @property
    def dims(self) -> int:
        """Weights of a word."""
        return self.codebook.dims

    def table(self) -> F32:
        """f32[words, dims]: the codebook."""
        return np.array(self.codebook.numbers, np.float32).reshape(-1, self.dims)

    def steps(self, parts: WordParts) -> F32:
        """f32[R, C / group]: what a level 1 stands for."""
        each = parts.scales.shape[1] // parts.d.shape[1]
        d = np.repeat(parts.d.astype(np.float32), each, axis=1)
        return d * np.float32(self.unit) * (2 * parts.scales + 1)

    def levels(self, parts: WordParts) -> F32:
        """f32[R, C]: levels with their signs."""
        R = len(parts.words)
        levels = self.table()[parts.words].reshape(R, -1, UNIT)
        negative = np.unpackbits(parts.signs, axis=1, bitorder="little").reshape(levels.shape)
        return np.where(negative, -levels, levels).reshape(R, -1)

    def weights(self, parts: WordParts) -> F32:
        """f32[R, C]: what the rows decode to."""
        return np.repeat(self.steps(parts), self.group, axis=1) * self.levels(parts)

    def unpack(self, rows: U8) -> WordParts:
        """u8[R, row_bytes] -> the numbers in them."""
        blocks: Any = np.ascontiguousarray(rows).view(self.type.layout)
        scales, words, signs = self.read(blocks)
        R = len(rows)
        return WordParts(
            np.array(blocks["d"]),
            scales.astype(np.int16).reshape(R, -1),
            words.astype(np.int16).reshape(R, -1),
            signs.astype(np.uint8).reshape(R, -1),
        )

    def pack(self, parts: WordParts) -> U8:
        """The numbers as u8[R, row_bytes]; unpack's inverse."""
        R, weights = len(parts.d), parts.signs.shape[1] * UNIT
        out = np.zeros((R, self.type.row_bytes(weights)), np.uint8)
        blocks: Any = out.view(self.type.layout)
        blocks["d"] = parts.d
        shape = (*blocks.shape, -1)
        self.write(
            blocks, *(each.reshape(shape) for each in (parts.scales, parts.words, parts.signs))
        )
        return out

    def read(self, blocks: Any) -> tuple[Any, Any, Any]:
        """(scales, words, signs) [R, blocks, ...] of records [R, blocks]."""
        raise NotImplementedError

    def write(self, blocks: Any, scales: Any, words: Any, signs: Any) -> None:
        """Put what `read` reads."""
        raise NotImplementedError


class IQ2_XXS(WordGrid):
    """Every 32 weights: four one-byte words, then signs and a scale."""

    group = 32
    codebook = _grids.IQ2XXS
    unit = 1 / 8
    even_signs = True

    def read(self, blocks: Any) -> tuple[Any, Any, Any]:
        quads = np.ascontiguousarray(blocks["qs"]).view("<u4")
        scales, signs = _of_info(quads[..., 1::2])
        return scales, np.ascontiguousarray(quads[..., ::2]).view(np.uint8), signs

    def write(self, blocks: Any, scales: Any, words: Any, signs: Any) -> None:
        quads = np.empty((*scales.shape[:-1], 16), "<u4")
        quads[..., ::2] = np.ascontiguousarray(words.astype(np.uint8)).view("<u4")
        quads[..., 1::2] = _info(scales, signs)
        blocks["qs"] = quads.view("<u2")


class IQ2_XS(WordGrid):
    """Every 8 weights: a 9-bit word and seven signs."""

    group = 16
    codebook = _grids.IQ2XS
    unit = 1 / 8
    even_signs = True

    def read(self, blocks: Any) -> tuple[Any, Any, Any]:
        qs = blocks["qs"]
        return _nibbles(blocks["scales"]), qs & 511, _eight(qs >> 9)

    def write(self, blocks: Any, scales: Any, words: Any, signs: Any) -> None:
        blocks["qs"] = words | (signs & 127).astype(np.uint16) << 9
        blocks["scales"] = _packed_nibbles(scales)


class IQ2_S(WordGrid):
    """Every 8 weights: a 10-bit word and eight signs."""

    group = 16
    codebook = _grids.IQ2S
    unit = 1 / 8
    even_signs = False

    def read(self, blocks: Any) -> tuple[Any, Any, Any]:
        top = _spread(blocks["qh"], 2)
        words = blocks["qs"][..., :32] | top.astype(np.uint16) << 8
        return _nibbles(blocks["scales"]), words, blocks["qs"][..., 32:]

    def write(self, blocks: Any, scales: Any, words: Any, signs: Any) -> None:
        blocks["qs"] = np.concatenate([words & 255, signs], axis=-1)
        blocks["qh"] = _gathered(words >> 8, 2)
        blocks["scales"] = _packed_nibbles(scales)


class IQ3_XXS(WordGrid):
    """Every 4 weights a one-byte word; then signs and a scale for every 32."""

    group = 32
    codebook = _grids.IQ3XXS
    unit = 1 / 4
    even_signs = True

    def read(self, blocks: Any) -> tuple[Any, Any, Any]:
        qs = blocks["qs"]
        scales, signs = _of_info(np.ascontiguousarray(qs[..., 64:]).view("<u4"))
        return scales, qs[..., :64], signs

    def write(self, blocks: Any, scales: Any, words: Any, signs: Any) -> None:
        blocks["qs"][..., :64] = words
        blocks["qs"][..., 64:] = _info(scales, signs).astype("<u4").view(np.uint8)


class IQ3_S(WordGrid):
    """Every 4 weights a 9-bit word; eight signs every 8."""

    group = 32
    codebook = _grids.IQ3S
    unit = 1.0
    even_signs = False

    def read(self, blocks: Any) -> tuple[Any, Any, Any]:
        top = _spread(blocks["qh"], 1).astype(np.uint16)
        return _nibbles(blocks["scales"]), blocks["qs"] | top << 8, blocks["signs"]

    def write(self, blocks: Any, scales: Any, words: Any, signs: Any) -> None:
        blocks["qs"] = words & 255
        blocks["qh"] = _gathered(words >> 8, 1)
        blocks["signs"] = signs
        blocks["scales"] = _packed_nibbles(scales)


def _eight(seven: Any) -> Any:
    """Seven signs and the eighth, which makes the number of set bits even."""
    seven = seven.astype(np.uint8)
    return seven | np.bitwise_count(seven) % 2 << 7


def _of_info(info: Any) -> tuple[Any, Any]:
    """u32[...]: four times seven signs and a scale -> (scales, signs)."""
    sevens = info[..., None] >> np.array([0, 7, 14, 21], np.uint32) & 127
    return info >> 28, _eight(sevens.reshape(*info.shape[:-1], -1))


def _info(scales: Any, signs: Any) -> Any:
    sevens = (signs & 127).astype(np.uint32).reshape(*scales.shape, 4)
    info = scales.astype(np.uint32) << 28
    return info | (sevens << np.array([0, 7, 14, 21], np.uint32)).sum(axis=-1, dtype=np.uint32)


def _nibbles(packed: Any) -> Any:
    return _spread(packed, 4)


def _packed_nibbles(scales: Any) -> Any:
    return _gathered(scales, 4)


def _spread(packed: Any, bits: int) -> Any:
    """u8[..., n] -> u8[..., 8 n / bits], the lowest bits first."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    pieces = packed[..., None] >> shifts & np.uint8((1 << bits) - 1)
    return pieces.reshape(*packed.shape[:-1], -1)


def _gathered(pieces: Any, bits: int) -> Any:
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    parts = pieces.astype(np.uint8).reshape(*pieces.shape[:-1], -1, len(shifts))
    return (parts << shifts).sum(axis=-1, dtype=np.uint8)
