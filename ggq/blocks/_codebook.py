"""What IQ1, IQ2 and IQ3 share: weights come 16 at a time as words of a codebook, perhaps signed."""

from __future__ import annotations

from ggq.blocks._grids import Grid
from ggq.jit.lang import Value, bit, concat, i8, i64, load, select, table, u8, u16

# Seven stored signs; the eighth makes the number of minus signs even (ksigns_iq2xs).
_SIGNS = [signs | (signs.bit_count() % 2) << 7 for signs in range(128)]


def words(grid: Grid, *indices: Value) -> Value:
    """i8[16]: the words of the codebook that scalar indices name, one after another."""
    start = table(i8, grid.numbers)
    return concat(*(load(i8 * grid.dims, start + n.to(i64) * grid.dims) for n in indices))


def even_signs(seven: Value) -> Value:
    """u8: the eight signs that the lower seven bits of a scalar stand for."""
    return load(u8, table(u8, _SIGNS) + (seven & 127).to(i64))


def with_signs(x: Value, low: Value, high: Value) -> Value:
    """Singles f32[16], minus where a bit is set in u8 scalars: `low` for eight, then `high`."""
    minus = (low.to(u16) | (high.to(u16) << 8)).bits(bit * 16)
    return select(minus, -x, x)
