"""Square transposes in registers, and the block-wise transposes built from them."""

from __future__ import annotations

from ggq.jit.lang import Value, shuffle, split, widen


def transpose(rows: list[Value]) -> list[Value]:
    """n vectors of n lanes -> n vectors of n lanes, n a power of two: out[i][j] = rows[j][i].

    Butterflies: after the step of distance d every pair of d x d squares has changed places.
    """
    n = len(rows)
    distance = n // 2
    while distance:
        moved = list(rows)
        for i in range(n):
            if i & distance:
                continue
            a, b = rows[i], rows[i + distance]
            low = [j if not j & distance else n + j - distance for j in range(n)]
            high = [j + distance if not j & distance else n + j for j in range(n)]
            moved[i], moved[i + distance] = shuffle(a, low, b), shuffle(a, high, b)
        rows = moved
        distance //= 2
    return rows


def columns(rows: list[Value]) -> list[Value]:
    """n vectors of w lanes -> w vectors of n lanes; w may be smaller or larger than n."""
    n, w = len(rows), rows[0].type.lanes
    if w <= n:
        return transpose([widen(row, n) for row in rows])[:w]
    parts = [split(row, n) for row in rows]
    return [column for k in range(w // n) for column in transpose([p[k] for p in parts])]
