"""Square transposes in registers, and the block-wise transposes built from them."""

from __future__ import annotations

from ggq.jit.lang import Value, concat, shuffle, split


def transpose(rows: list[Value]) -> list[Value]:
    """n vectors of k n lanes -> the same: out[i][n m + j] = rows[j][n m + i], n a power of two.

    Butterflies: after the step of distance d every pair of d x d squares has changed places.
    """
    n, lanes = len(rows), rows[0].type.lanes
    distance = n // 2
    while distance:
        moved = list(rows)
        for i in range(n):
            if i & distance:
                continue
            a, b = rows[i], rows[i + distance]
            low = [j if not j & distance else lanes + j - distance for j in range(lanes)]
            high = [j + distance if not j & distance else lanes + j for j in range(lanes)]
            moved[i], moved[i + distance] = shuffle(a, low, b), shuffle(a, high, b)
        rows = moved
        distance //= 2
    return rows


def columns(rows: list[Value]) -> list[Value]:
    """n vectors of w lanes -> w vectors of n lanes; w may be smaller or larger than n."""
    n, w = len(rows), rows[0].type.lanes
    if w <= n:
        return transpose([concat(*rows[i::w]) for i in range(w)])
    parts = [split(row, n) for row in rows]
    return [column for k in range(w // n) for column in transpose([p[k] for p in parts])]
