"""TQ1_0 and TQ2_0: three values per weight, for models trained that way."""

from __future__ import annotations

from collections.abc import Iterator

from ggq.blocks._base import BlockType, fields
from ggq.blocks._lanes import Block, Lanes, Tile
from ggq.blocks._search import inverse_or_zero, largest, round_away
from ggq.blocks._subblocks import put_two_bits
from ggq.blocks._view import Blocks
from ggq.blocks.q2_k import two_bit_runs
from ggq.jit.lang import Value, concat, f32, i32, loop, split, u8, u16


class TQ1_0(BlockType):
    """w = d * (q - 1), five trits a byte   (1.6875 bits per weight)"""

    id = 34
    weights = 256
    layout = fields(("qs", "u1", (48,)), ("qh", "u1", (4,)), ("d", "<f2"))

    def singles(self, address: Value, step: int) -> Iterator[tuple[int, Value]]:
        """160 weights in 32 bytes, 80 in 16, and 16 in the four of qh; first trits first."""
        blocks = Blocks(self, address)
        d = blocks.half("d")
        for bytes_at, weights_at, length in ((0, 0, 32), (32, 160, 16)):
            qs = blocks.bytes("qs", bytes_at, length)
            for n in range(5):
                for k, part in enumerate(split(_trits(qs, n), 16)):
                    yield weights_at + n * length + 16 * k, (part - 1).to(f32) * d
        last = concat(*(_trits(blocks.bytes("qh"), n) for n in range(4)))
        yield 240, (last - 1).to(f32) * d

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


class TQ2_0(BlockType):
    """w = d * (q - 1), two bits a weight   (2.0625 bits per weight)"""

    id = 35
    weights = 256
    layout = fields(("qs", "u1", (64,)), ("d", "<f2"))

    def singles(self, address: Value, step: int) -> Iterator[tuple[int, Value]]:
        """Each half: 32 bytes, two bits of every byte for each of four runs of 32 weights."""
        blocks = Blocks(self, address)
        d = blocks.half("d")
        for at in range(0, 64, 16):
            for run, codes in enumerate(two_bit_runs(blocks.bytes("qs", at, 16))):
                first = 128 * (at // 32) + 32 * run + at % 32
                yield first, (codes.to(i32) - 1).to(f32) * d

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


def _trits(codes: Value, n: int) -> Value:
    """i32 0..2: trit n of every byte, which holds q / 3^5 of a byte's range, rounded up."""
    shifted: Value = codes * 3**n  # modulo 256: earlier trits leave at the top
    return ((shifted.to(u16) * 3) >> 8).to(i32)
