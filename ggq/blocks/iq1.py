"""IQ1_S and IQ1_M: 8-dimensional ternary codebook of 2048 words plus a shift.

Codes are eight times what is added up, so that shifts of 1/8 are whole: 8 * word +- 1.
"""

from __future__ import annotations

from collections.abc import Iterator

from ggq.blocks import _grids as grids
from ggq.blocks._base import fields
from ggq.blocks._codebook import nibbles, plain_codes
from ggq.blocks._super import CHUNK, SuperBlock
from ggq.blocks._view import Blocks
from ggq.jit.isa import target
from ggq.jit.lang import Value, const, i16, load, select, shuffle, splat, u8, u16


class _IQ1(SuperBlock):
    """w = d / 8 * (2 sc + 1) * (8 * word +- 1)"""

    offset = 9

    def words(self, blocks: Blocks) -> Value:
        """u16[32]: numbers of the words."""
        raise NotImplementedError

    def shifts_down(self, blocks: Blocks) -> Value:
        """Whether to subtract, for every 8 weights: not 0 in u16[32]."""
        raise NotImplementedError

    def codes(self, blocks: Blocks, width: int) -> Iterator[tuple[list[int], Value]]:
        """Words with the shift added."""
        down = self.shifts_down(blocks).ne(0)
        shifts = select(down, const(u8 * 32, 0), 2)
        words = plain_codes(lambda level: 8 * level + 8, grids.IQ1S, self.words(blocks), width)
        for starts, codes in words:
            chosen = [start // 8 + i // 8 for start in starts for i in range(CHUNK)]
            yield starts, codes + shuffle(shifts, chosen)


class IQ1_S(_IQ1):
    """w = d / 8 * (2 sc + 1) * (8 * word +- 1)   (1.5625 bits per weight)

    qh of every 32 weights: four times three upper bits of a word, a 3-bit scale, the shift's sign.
    """

    id = 19
    layout = fields(("d", "<f2"), ("qs", "u1", (32,)), ("qh", "<u2", (8,)))
    group = 32

    def words(self, blocks: Blocks) -> Value:
        """Eight bits in qs, three in qh."""
        high = shuffle(self._qh(blocks), [i // 4 for i in range(32)])
        high = (high >> const(u16 * 32, [0, 3, 6, 9] * 8)) & 7
        return blocks.bytes("qs").to(u16) | (high << 8)

    def shifts_down(self, blocks: Blocks) -> Value:
        """The top bit of qh."""
        return shuffle(self._qh(blocks), [i // 4 for i in range(32)]) & 0x8000

    def scales(self, blocks: Blocks) -> Value:
        """Three bits."""
        return ((self._qh(blocks) >> 12) & 7).to(i16) * 2 + 1

    def scale(self, blocks: Blocks) -> Value:
        """d / 8."""
        return blocks.half("d") * 0.125

    def _qh(self, blocks: Blocks) -> Value:
        return load(u16 * 8, blocks.address + 34)


class IQ1_M(_IQ1):
    """w = d / 8 * (2 sc + 1) * (8 * word +- 1)   (1.75 bits per weight)

    Every 8 weights: a word of 8 bits in qs and 3 in qh, and the shift's sign; every 16 a 3-bit
    scale. The upper four bits of each scale word together are d.
    """

    id = 29
    layout = fields(("qs", "u1", (32,)), ("qh", "u1", (16,)), ("scales", "u1", (8,)))
    group = 16

    def words(self, blocks: Blocks) -> Value:
        """Eight bits in qs, three in qh."""
        high = nibbles(blocks.bytes("qh")).to(u16) & 7
        return blocks.bytes("qs").to(u16) | (high << 8)

    def shifts_down(self, blocks: Blocks) -> Value:
        """The top bit of each nibble of qh."""
        return nibbles(blocks.bytes("qh")) & 8

    def scales(self, blocks: Blocks) -> Value:
        """Four times three bits in each word."""
        words = shuffle(load(u16 * 4, blocks.address + 48), [i // 4 for i in range(16)])
        return ((words >> const(u16 * 16, [0, 3, 6, 9] * 4)) & 7).to(i16) * 2 + 1

    def scale(self, blocks: Blocks) -> Value:
        """d / 8."""
        words = [load(u16, blocks.address + (48 + 2 * k)) >> 12 for k in range(4)]
        bits = words[0] | (words[1] << 4) | (words[2] << 8) | (words[3] << 12)
        return target().half_to_single(splat(bits, 1))[0] * 0.125
