"""TQ1_0 and TQ2_0: three values per weight, for models trained that way."""

from __future__ import annotations

from collections.abc import Iterator

from ggq.blocks._base import fields
from ggq.blocks._lanes import Block, Lanes, Tile
from ggq.blocks._search import inverse_or_zero, largest, round_away
from ggq.blocks._subblocks import put_two_bits
from ggq.blocks._super import CHUNK, SuperBlock
from ggq.blocks._view import Blocks
from ggq.blocks.q2_k import two_bit_codes
from ggq.jit.lang import Value, concat, const, i16, loop, select, shuffle, split, u8, u16, widen


class TQ1_0(SuperBlock):
    """w = d * (q - 1), five trits a byte   (1.6875 bits per weight)"""

    id = 34
    layout = fields(("qs", "u1", (48,)), ("qh", "u1", (4,)), ("d", "<f2"))
    group = 128
    scaled = False
    room = 5 * 64
    offset = 1

    def codes(self, blocks: Blocks, width: int) -> Iterator[tuple[list[int], Value]]:
        """160 weights in 32 bytes, 80 in 16, and 16 in the four of qh; first trits first."""
        rest = concat(blocks.bytes("qs", 32, 16), widen(blocks.bytes("qh"), 16))
        shifted = [concat(blocks.bytes("qs", 0, 32), rest)]
        for _ in range(4):  # modulo 256: earlier trits leave at the top
            shifted.append(shifted[-1] + shifted[-1] + shifted[-1])
        if width == CHUNK:
            yield from _in_order(shifted)
            return
        for n, codes in enumerate(shifted):
            last = [240 + 4 * n + i if n < 4 else -1 for i in range(4)]
            weights = [32 * n + i for i in range(32)] + [160 + 16 * n + i for i in range(16)] + last
            weights += [-1] * 12
            for k, part in enumerate(split(codes, width)):
                yield weights[k * width : (k + 1) * width], _top_trits(part)

    def scales(self, blocks: Blocks) -> Value:
        """There are none below d."""
        return const(i16 * self.groups, 1)

    def quantize_lanes(self, b: Lanes) -> None:
        """Source: llama.cpp ggml-quants.c, quantize_row_tq1_0_ref."""
        for block in _coded(b):
            for field, at, first, length in (
                ("qs", 0, 0, 32),
                ("qs", 32, 160, 16),
                ("qh", 0, 240, 4),
            ):
                byte = block.codes(first, length)
                for n in range(1, 5):
                    last = field == "qh" and n == 4
                    byte = byte * 3 if last else byte * 3 + block.codes(first + n * length, length)
                # q / 3^5 of a byte's range, rounded up
                block.put(field, ((byte.to(u16) * 256 + 242) // 243).to(u8), at)


class TQ2_0(SuperBlock):
    """w = d * (q - 1), two bits a weight   (2.0625 bits per weight)"""

    id = 35
    layout = fields(("qs", "u1", (64,)), ("d", "<f2"))
    group = 128
    scaled = False
    offset = 1

    def codes(self, blocks: Blocks, width: int) -> Iterator[tuple[list[int], Value]]:
        """Each half: 32 bytes, two bits of every byte for each of four runs of 32 weights."""
        return two_bit_codes(blocks, width)

    def scales(self, blocks: Blocks) -> Value:
        """There are none below d."""
        return const(i16 * self.groups, 1)

    def quantize_lanes(self, b: Lanes) -> None:
        """Source: llama.cpp ggml-quants.c, quantize_row_tq2_0_ref."""
        for block in _coded(b):
            put_two_bits(block, "qs")


def _coded(b: Lanes) -> Iterator[Block]:
    """Write d, the largest magnitude, and make codes 0..2, block after block."""
    d, _ = largest(b.x, 256)
    b.put_half("d", d)
    inverse = Tile.of(inverse_or_zero(d)[0])
    for block in b.each():
        for i in loop(0, 256, block.step):
            block.set_codes(i, round_away(block.x(i) * inverse.lane(block.lane)) + 1)
        yield block


def _in_order(shifted: list[Value]) -> Iterator[tuple[list[int], Value]]:
    """Chunks of 16 codes in the order of the weights."""
    chunks = [(codes, at) for codes in shifted for at in (0, 16)] + [
        (codes, 32) for codes in shifted
    ]
    parts = [shuffle(codes, range(at, at + CHUNK)) for codes, at in chunks]
    parts.append(concat(*(shuffle(codes, range(48, 52)) for codes in shifted[:4])))
    for k, part in enumerate(parts):
        yield [CHUNK * k], _top_trits(part)


def _top_trits(codes: Value) -> Value:
    """u8 0..2: the first trit of every byte, which holds q / 3^5 of a byte's range, rounded up."""
    ones = const(codes.type, 1)
    return select(codes >= 86, ones, 0) + select(codes >= 171, ones, 0)  # 3 * code // 256
