"""llama.cpp's own quantizers, bit for bit."""

from __future__ import annotations

from ggq.blocks import BlockType
from ggq.convert.methods._base import F32, U8, Method, Needs, Prepared


class Llama(Method):
    """`BlockType.quantize`, with the mean squares of the columns where they are known."""

    name = "llama"
    needs = Needs.NOTHING
    simpler = None

    def covers(self, type: BlockType) -> bool:
        return type.can_quantize

    def quantize(self, w: F32, type: BlockType, prepared: Prepared, *, threads: int = 0) -> U8:
        return type.quantize(w, prepared.importance, threads=threads)
