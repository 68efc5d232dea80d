"""Every kernel of every type between guard pages: python -m tests.guarded_run [TYPE ...]

Each buffer lies once flush before a page that faults when touched, and once flush behind one. A
line is printed before each case, so that after a fault the last line tells which it was.
"""

from __future__ import annotations

import ctypes
import mmap
import sys

import numpy as np
import numpy.typing as npt

from ggq import blocks
from ggq.blocks import BlockType
from ggq.blocks._frame import tile_tokens
from tests.block_laws import check_products

PAGE = mmap.PAGESIZE
PROTECTION_NONE = 0


class Guarded:
    """Buffers by name, each between two guard pages; `at_end` says which one it touches."""

    def __init__(self, at_end: bool, largest: int = 1 << 20) -> None:
        self.at_end = at_end
        self._largest = largest
        self._maps: dict[str, mmap.mmap] = {}

    def __call__(self, name: str, nbytes: int) -> npt.NDArray[np.uint8]:
        if name not in self._maps:
            self._maps[name] = self._guarded()
        start = PAGE + (self._largest - nbytes if self.at_end else 0)
        buffer = np.frombuffer(self._maps[name], np.uint8, nbytes, start)
        buffer[:] = 0xEE
        return buffer

    def _guarded(self) -> mmap.mmap:
        memory = mmap.mmap(-1, self._largest + 2 * PAGE)
        first = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        protect = ctypes.CDLL(None, use_errno=True).mprotect
        protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        for page in (first, first + PAGE + self._largest):
            if protect(page, PAGE, PROTECTION_NONE):
                raise OSError(ctypes.get_errno(), "mprotect")
        return memory


def lengths(family: BlockType) -> list[int]:
    """Block counts: all short ones, so that every tail occurs, and rows of 576 and 2048."""
    typical = [cols // family.weights for cols in (576, 2048) if cols % family.weights == 0]
    plain = [15, 16, 17, 31, 63, 64, 65, 100] if family.weights == 1 else []
    return [*range(1, 10), *plain, *typical]


def main() -> None:
    places = [Guarded(at_end=True), Guarded(at_end=False)]
    for family in [blocks.by_name(n) for n in sys.argv[1:]] or blocks.all_types():
        for count in lengths(family):
            for place in places:
                side = "before" if place.at_end else "behind"
                print(f"{family}, {count} blocks a row, {side} a guard page", flush=True)
                rng = np.random.default_rng(count)
                check_products(family, count, 2 if count > 9 else tile_tokens() + 1, rng, place)
    print("done", flush=True)


if __name__ == "__main__":
    main()
