"""What the machine can do at most: reading memory in one stream per thread, products of bytes.

The arithmetic is that of the matrix kernels without their unpacking: a vector of weights from the
nearest cache, multiplied into many sums.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from ggq.jit.isa import target
from ggq.jit.lang import (
    Type,
    Value,
    f32,
    fma,
    hsum,
    i8,
    i16,
    i32,
    load,
    loop,
    store,
    u8,
    var,
    zeros,
)
from ggq.runtime.kernels._op import Op, Thread, op

SUMS = 12  # enough to hide the latency of a product in every processor known
WEIGHTS = 32  # vectors of weights taken in turns
DATA_BYTES = (WEIGHTS + SUMS) * 64
STREAM_STEP = 1024  # bytes
_RESULTS = 64  # bytes between the threads' results, which keep the work from being optimized away


@op
def stream(t: Thread, memory: Value, nbytes: Value, out: Value) -> None:
    """Read the thread's part of the memory once, front to back."""
    type = i32 * target().lanes
    sums = [var(zeros(type)) for _ in range(8)]
    begin, end = t.share(nbytes, STREAM_STEP)
    for at in loop(begin, end, STREAM_STEP):
        for k in range(STREAM_STEP // type.nbytes):
            sums[k % 8] += load(type, memory + at + k * type.nbytes)
    total = sums[0].value
    for other in sums[1:]:
        total += other
    store(out + t.index * _RESULTS, hsum(total))


@cache
def dots(signed: bool) -> Op:
    """Products of bytes, `count` times SUMS vectors of them; `data` is DATA_BYTES long."""

    def multiply(total: Value, w: Value, x: Value) -> Value:
        if signed:
            return target().dot_signed(total, w, x)
        return target().dot_unsigned(total, w.to(u8), x)

    return _products("signed" if signed else "unsigned", i8, i32, multiply)


@cache
def pairs() -> Op:
    """Products of numbers of 16 bits, added in pairs."""
    return _products("pairs", i16, i32, lambda total, w, x: target().dot_pairs(total, w, x))


@cache
def singles() -> Op:
    """Products of singles, added; `count` times SUMS vectors of them."""
    return _products("singles", f32, f32, lambda total, w, x: fma(w, x, total))


def _products(
    name: str, factor: Type, result: Type, multiply: Callable[[Value, Value, Value], Value]
) -> Op:
    def body(t: Thread, count: Value, data: Value, out: Value) -> None:
        nbytes, lanes = target().nbytes, target().lanes
        factors = factor * (nbytes * 8 // factor.bits)
        sums = [var(zeros(result * lanes)) for _ in range(SUMS)]
        for i in loop(count):
            w = load(factors, data + (i & (WEIGHTS - 1)) * nbytes)
            for k, total in enumerate(sums):
                total.set(multiply(total, w, load(factors, data + (WEIGHTS + k) * nbytes)))
        whole = sums[0].value
        for other in sums[1:]:
            whole += other
        store(out + t.index * _RESULTS, hsum(whole))

    return Op(f"roofline.{name}", body)


def results_bytes(threads: int) -> int:
    """Bytes the threads' results take."""
    return threads * _RESULTS
