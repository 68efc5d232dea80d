"""The words near every point of a codebook's lattice: what the searches of IQ1 to IQ3 go through.

A point is a level for each of the dims. If it is no word itself, its neighbours are the words at
the `wanted` smallest distances from it, nearest first, equally near ones by number.
Source: llama.cpp ggml/src/ggml-quants.c, iq2xs_init_impl and iq3xs_init_impl.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ggq.blocks._base import U8
from ggq.blocks._grids import Grid

I64 = npt.NDArray[np.int64]

OFF = 1 << 30  # marks the neighbours of a point that is no word itself
FAR = np.uint8(255)
ROW = 64  # bytes from one level's costs to the next level's


class Lattice(NamedTuple):
    """A codebook, and at how many distances words count as neighbours."""

    grid: Grid
    wanted: int

    @property
    def dims(self) -> int:
        """Weights of a word."""
        return self.grid.dims

    @property
    def levels(self) -> int:
        """Levels a weight can have."""
        return len(self.grid.levels)

    @property
    def level_bits(self) -> int:
        """Bits of a level in an entry."""
        return (self.levels - 1).bit_length()

    @property
    def heads(self) -> int:
        """Offset of the heads in `table`: for every point i32 (first entry, neighbours)."""
        return 0

    @property
    def rows(self) -> int:
        """Offset of the rows in `table`: for every word u16[dims], where costs of levels are."""
        return int(8 * self.levels**self.dims)

    @property
    def entries(self) -> int:
        """Offset of the i32 entries in `table`: word number << 16 | levels, perhaps OFF."""
        words = len(self.grid.numbers) // self.dims
        return self.rows + 2 * self.dims * words

    def table(self) -> U8:
        """All of it as a kernel reads it; made when first wanted.

        A point is numbered with its first level as the lowest digit. A word has one entry, its
        own, and no neighbours.
        """
        return _table(self)


@cache
def _table(lattice: Lattice) -> U8:
    words = np.array(lattice.grid.numbers).reshape(-1, lattice.dims)
    words = np.searchsorted(lattice.grid.levels, words)
    shape = (lattice.levels,) * lattice.dims
    points = np.stack(np.unravel_index(np.arange(np.prod(shape)), shape, order="F"), 1)
    found = [_neighbours(part, words, lattice.wanted) for part in _slabs(points)]
    counts, listed = (np.concatenate(parts) for parts in zip(*found, strict=True))
    entries = np.maximum(counts, 1)
    heads = np.stack([np.cumsum(entries) - entries, counts], 1)
    rows = (np.arange(lattice.dims) * lattice.levels + words) * ROW
    packed = (words << lattice.level_bits * np.arange(lattice.dims)).sum(1)
    packed |= np.arange(len(words)) << 16
    packed = packed[listed] | np.where(np.repeat(counts > 0, entries), OFF, 0)
    parts = heads.astype(np.int32), rows.astype(np.uint16), packed.astype(np.int32)
    return np.concatenate([part.reshape(-1).view(np.uint8) for part in parts])


def _slabs(points: I64) -> list[I64]:
    """Parts whose distances to all words fit the cache."""
    return [points[i : i + 128] for i in range(0, len(points), 128)]


def _neighbours(points: I64, words: I64, wanted: int) -> tuple[I64, I64]:
    """(number of neighbours of each point, the words listed for all of them)."""
    distances = np.zeros((len(points), len(words)), np.uint8)
    for p, w in zip(points.T.astype(np.uint8), words.T.astype(np.uint8), strict=True):
        difference = p[:, None] - w  # modulo 256, as are the squares
        distances += difference * difference
    limit = distances.min(1, keepdims=True)
    is_word = limit[:, 0] == 0
    for _ in range(wanted - 1):
        limit = np.where(distances > limit, distances, FAR).min(1, keepdims=True)
    limit[is_word] = 0
    point, word = np.nonzero(distances <= limit)
    order = np.lexsort((distances[point, word], point))
    counts = np.bincount(point, minlength=len(points))
    return np.where(is_word, 0, counts), word[order]
