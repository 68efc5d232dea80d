"""The machine's own limits, measured: GB/s of reading, GOPS of products."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from ggq.jit import cpu, prepare
from ggq.jit.isa import target
from ggq.runtime.kernels import roofline as kernels
from ggq.runtime.kernels._op import STATE_WORDS, Op, Step
from ggq.runtime.threads import Program, Team, aligned

STREAMED = 1 << 29  # bytes read at a time, far more than caches hold, at most
_SHARE = 16  # of the machine's memory
_ROUNDS = 1_000_000  # of products, some milliseconds
_LOOKS = 3  # the best of so many is one sample: others may use the machine, too


class Roofline:
    """Limits for `threads` threads; `nbytes` of memory are read, 0: enough to be none of caches."""

    def __init__(self, threads: int, nbytes: int = 0) -> None:
        self.threads = threads
        self.form = cpu.form()
        self._nbytes = (nbytes or _streamed()) // kernels.STREAM_STEP * kernels.STREAM_STEP
        self._memory = aligned(self._nbytes)
        self._memory.fill(1)  # a page that was never written is no memory yet
        self._out = aligned(kernels.results_bytes(threads))
        self._team = Team(threads)
        self._keep: list[npt.NDArray[np.uint8]] = []
        self._stream = self._program(
            kernels.stream, memory=self._memory.ctypes.data, nbytes=self._nbytes,
            out=self._out.ctypes.data,
        )  # fmt: skip
        self._products = [self._product(*each) for each in _factors()]
        self._read: list[float] = []
        self._gops = [0.0] * len(self._products)
        self.sample()

    @property
    def read_gbs(self) -> float:
        """10^9 bytes per second in one sequential stream per thread; median of the samples."""
        return statistics.median(self._read)

    @property
    def dot_gops(self) -> float:
        """10^9 multiplications and additions of bytes per second, the most of the samples."""
        return max(self._gops[:-2])

    @property
    def short_gops(self) -> float:
        """The same of numbers of 16 bits, added in pairs."""
        return self._gops[-2]

    @property
    def fma_gops(self) -> float:
        """10^9 multiplications and additions of singles per second, the most of the samples."""
        return self._gops[-1]

    def sample(self) -> None:
        """Measure once more: memory is as fast as others leave it, and so are shared cores."""
        self._read.append(self._nbytes / self._best(self._stream) / 1e9)
        for k, (program, operations) in enumerate(self._products):
            self._gops[k] = max(self._gops[k], operations / self._best(program) / 1e9)

    def start_over(self) -> None:
        """Forget how fast memory was until now."""
        self._read.clear()
        self.sample()

    def seconds(self, nbytes: int, byte_ops: int, short_ops: int, single_ops: int) -> float:
        """The least time in which so much can be read and computed."""
        computing = byte_ops / self.dot_gops + short_ops / self.short_gops
        computing += single_ops / self.fma_gops
        return max(nbytes / self.read_gbs, computing) / 1e9

    def close(self) -> None:
        """End the threads."""
        self._team.close()

    def _product(self, op: Op, data: npt.NDArray[np.uint8], factors: int) -> tuple[Program, int]:
        """A program of _ROUNDS products of vectors, and its operations."""
        words = {"count": _ROUNDS, "data": data.ctypes.data, "out": self._out.ctypes.data}
        self._keep.append(data)
        return self._program(op, **words), 2 * _ROUNDS * kernels.SUMS * factors * self.threads

    def _program(self, op: Op, **words: int) -> Program:
        prepare([op.kernel])
        step = Step(op, np.array(op.describe(**words), np.int64))
        assert step.description is not None
        operations = np.array([(op.kernel.address, step.description.ctypes.data)], np.int64)
        return Program(operations, 0, self.threads, [step], [])

    def _best(self, program: Program) -> float:
        state = np.zeros(STATE_WORDS, np.int64)
        return min(_seconds(lambda: self._team.run(program, state)) for _ in range(_LOOKS))


def _streamed() -> int:
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return STREAMED
    return min(STREAMED, memory // _SHARE)


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _factors() -> list[tuple[Op, npt.NDArray[np.uint8], int]]:
    """The products of bytes, of pairs and of singles: with data, and factors in a vector.

    Bytes are 0..127 and singles 0..1, which overflow no form of product.
    """
    rng = np.random.default_rng(0)
    small, singles = aligned(kernels.DATA_BYTES), aligned(kernels.DATA_BYTES)
    small[:] = rng.integers(0, 128, kernels.DATA_BYTES)
    singles.view(np.float32)[:] = rng.random(kernels.DATA_BYTES // 4)
    dots = [(kernels.dots(signed), small, target().nbytes) for signed in (False, True)]
    pairs = (kernels.pairs(), small, target().nbytes // 2)
    return [*dots, pairs, (kernels.singles(), singles, target().lanes)]


@contextmanager
def measured(threads: int, nbytes: int = 0) -> Iterator[Roofline]:
    """A Roofline whose threads end with the block."""
    found = Roofline(threads, nbytes)
    try:
        yield found
    finally:
        found.close()
