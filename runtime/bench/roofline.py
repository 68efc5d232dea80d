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
    """Limits for `threads` threads. Memory is as fast as others leave it, so sample it often."""

    def __init__(self, threads: int, nbytes: int = 0) -> None:
        self.threads = threads
        self.form = cpu.form()
        self._nbytes = (nbytes or _streamed()) // kernels.STREAM_STEP * kernels.STREAM_STEP
        self._memory = aligned(self._nbytes)
        self._memory.fill(1)  # a page that was never written is no memory yet
        self._out = aligned(kernels.results_bytes(threads))
        self._team = Team(threads)
        self._stream = self._program(
            kernels.stream, memory=self._memory.ctypes.data, nbytes=self._nbytes,
            out=self._out.ctypes.data,
        )  # fmt: skip
        self._read: list[float] = []
        bytes_, singles = _factors()
        signs = (False, True)
        self.dot_gops = max(self._products(kernels.dots(s), bytes_, target().nbytes) for s in signs)
        self.fma_gops = self._products(kernels.singles(), singles, target().lanes)
        self.sample()

    @property
    def read_gbs(self) -> float:
        """10^9 bytes per second in one sequential stream per thread; median of the samples."""
        return statistics.median(self._read)

    def sample(self) -> float:
        """Measure reading once more, for `read_gbs` to know; GB/s."""
        self._read.append(self._nbytes / self._best(self._stream) / 1e9)
        return self._read[-1]

    def start_over(self) -> None:
        """Forget the samples of reading but for a new one."""
        self._read.clear()
        self.sample()

    def seconds(self, nbytes: int, byte_ops: int, single_ops: int) -> float:
        """The least time in which so much can be read and computed."""
        computing = byte_ops / self.dot_gops + single_ops / self.fma_gops
        return max(nbytes / self.read_gbs, computing) / 1e9

    def close(self) -> None:
        """End the threads."""
        self._team.close()

    def _products(self, op: Op, data: npt.NDArray[np.uint8], factors: int) -> float:
        program = self._program(op, count=_ROUNDS, data=data.ctypes.data, out=self._out.ctypes.data)
        operations = 2 * _ROUNDS * kernels.SUMS * factors * self.threads
        return operations / self._best(program, 2 * _LOOKS) / 1e9

    def _program(self, op: Op, **words: int) -> Program:
        prepare([op.kernel])
        step = Step(op, np.array(op.describe(**words), np.int64))
        assert step.description is not None
        operations = np.array([(op.kernel.address, step.description.ctypes.data)], np.int64)
        return Program(operations, 0, self.threads, [step], [])

    def _best(self, program: Program, looks: int = _LOOKS) -> float:
        state = np.zeros(STATE_WORDS, np.int64)
        return min(_seconds(lambda: self._team.run(program, state)) for _ in range(looks))


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


def _factors() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Bytes 0..127 and singles 0..1 to multiply, neither overflowing any form of product."""
    rng = np.random.default_rng(0)
    small, singles = aligned(kernels.DATA_BYTES), aligned(kernels.DATA_BYTES)
    small[:] = rng.integers(0, 128, kernels.DATA_BYTES)
    singles.view(np.float32)[:] = rng.random(kernels.DATA_BYTES // 4)
    return small, singles


@contextmanager
def measured(threads: int, nbytes: int = 0) -> Iterator[Roofline]:
    """A Roofline whose threads end with the block."""
    found = Roofline(threads, nbytes)
    try:
        yield found
    finally:
        found.close()
