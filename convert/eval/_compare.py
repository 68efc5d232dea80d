"""Two rows of logits side by side, in one pass over memory behind the maxima.

With m and n the maxima of p and q, Z_p = sum e^(p - m) and Z_q = sum e^(q - n):

    KL(p || q) = sum e^(p - m) ((p - m) - (q - n)) / Z_p - ln Z_p + ln Z_q

Terms are singles, of which 256 a lane are added before they go into a double, so the sums are good
to about 1e-7 whatever the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from ggq.jit import Kernel
from ggq.jit.isa import target
from ggq.jit.lang import (
    Value,
    const,
    f32,
    f64,
    hmax,
    hsum,
    i32,
    i64,
    load,
    loop,
    minimum,
    select,
    splat,
    store,
    var,
    zeros,
)
from ggq.runtime.kernels._math import exp

MAX_P, SUM_P, MAX_Q, SUM_Q, CROSS, TOP_P, TOP_Q = range(7)
WORDS = 7  # f64 of each row that is compared
LEAST_COLUMNS = 64  # a vector of any processor fits
_TERMS = 256


def _parts(begin: Value, end: Value, columns: Value) -> Iterator[tuple[Value, Value]]:
    """(first column of a vector, its lanes that were not in the one before), for each vector.

    The last vector of a row begins early enough to end with it.
    """
    n = target().lanes
    for i in loop(begin, end, n):
        at = minimum(i, columns - n)
        fresh = const(i32 * n, range(n)) >= splat((i - at).to(i32), n)
        yield at, fresh


def _top(row: Value, columns: Value) -> tuple[Value, Value]:
    """(largest of f32[columns], first column that holds it)."""
    n = target().lanes
    top, where = var(splat(load(f32, row, 4), n)), var(zeros(i32 * n))
    for at, _ in _parts(const(i64, 0), columns, columns):
        x = load(f32 * n, row + at * 4, 4)
        better = x > top
        where.set(select(better, splat(at.to(i32), n) + const(i32 * n, range(n)), where))
        top.set(select(better, x, top))
    largest = hmax(top)
    first = -hmax(select(top.eq(splat(largest, n)), -where, const(i32 * n, -(2**31) + 1)))
    return largest, first


@cache
def compare_kernel(floor: float | None) -> Kernel:
    """Kernel(p, p_stride, q, q_stride, rows, columns, out f64[rows, WORDS]).

    Rows of f32 logits, strides in bytes, at least LEAST_COLUMNS columns. With `floor` only columns
    whose p is above it count in SUM_P and CROSS.
    """

    def body(
        p: Value, p_stride: Value, q: Value, q_stride: Value, rows: Value, columns: Value,
        out: Value,
    ) -> None:  # fmt: skip
        n = target().lanes
        for r in loop(rows):
            a, b = p + r * p_stride, q + r * q_stride
            (max_p, top_p), (max_q, top_q) = _top(a, columns), _top(b, columns)
            totals = [var(const(f64, 0.0)) for _ in range(3)]
            for begin in loop(0, columns, _TERMS * n):
                sums = [var(zeros(f32 * n)) for _ in range(3)]
                end = minimum(begin + _TERMS * n, columns)
                for at, fresh in _parts(begin, end, columns):
                    x, y = load(f32 * n, a + at * 4, 4), load(f32 * n, b + at * 4, 4)
                    counts = fresh if floor is None else fresh & (x > floor)
                    x, y = x - max_p, y - max_q
                    nothing = zeros(f32 * n)
                    weight = select(counts, exp(x), nothing)
                    sums[0] += weight
                    sums[1] += select(fresh, exp(y), nothing)
                    sums[2] += select(counts, weight * (x - y), nothing)
                for total, part in zip(totals, sums, strict=True):
                    total += hsum(part).to(f64)
            sum_p, sum_q, cross = totals
            row = out + r * (8 * WORDS)
            for word, value in (
                (MAX_P, max_p), (SUM_P, sum_p), (MAX_Q, max_q), (SUM_Q, sum_q), (CROSS, cross),
                (TOP_P, top_p), (TOP_Q, top_q),
            ):  # fmt: skip
                store(row + 8 * word, value.to(f64), 8)

    suffix = "" if floor is None else ".above"
    return Kernel(f"eval.compare{suffix}", body, 7)
