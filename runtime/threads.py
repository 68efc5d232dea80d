"""Long-lived threads that run compiled programs together, and cost nothing between runs.

Inside a run they meet at barriers. Between runs a worker spins for a moment, then parks on a lock;
`Team.run` wakes exactly those that are parked. The caller's thread is number 0.
"""

from __future__ import annotations

import atexit
import mmap
import sys
import threading
import time
from typing import Any

import numpy as np
import numpy.typing as npt

from ggq.errors import OutOfMemoryError
from ggq.runtime.kernels import execute
from ggq.runtime.kernels._op import N_TOKENS, Step
from ggq.runtime.pace import Clocks, Pace
from ggq.runtime.parking import ACQUIRE, RELEASE, free_lock, new_lock

I64 = npt.NDArray[np.int64]
_MAPPED = 1 << 22  # bytes from which memory is mapped rather than allocated
_PIECE_BARRIERS = 8  # of a prompt's program between two looks for Ctrl-C
_SPINS = 20_000  # looks for new work before parking, each some tens of cycles


def aligned(nbytes: int) -> npt.NDArray[np.uint8]:
    """Zeroed memory at a multiple of 64 bytes; pages are touched only as used.

    Large memory is mapped without reserving it: a context is as long as the model allows, and few
    texts use all of it. Raises OutOfMemoryError.
    """
    try:
        return _mapped(nbytes) if nbytes >= _MAPPED else _allocated(nbytes)
    except (MemoryError, OSError, OverflowError, ValueError):
        raise OutOfMemoryError(
            f"{nbytes / 1e9:,.1f} GB of memory cannot be had; a smaller context needs less (-c)"
        ) from None


def _allocated(nbytes: int) -> npt.NDArray[np.uint8]:
    whole = np.zeros(nbytes + 64, np.uint8)
    start = -whole.ctypes.data % 64
    return whole[start : start + nbytes]


def _mapped(nbytes: int) -> npt.NDArray[np.uint8]:
    if sys.platform != "linux":
        return _allocated(nbytes)
    no_reserve = 0x4000  # MAP_NORESERVE, which the mmap module names from Python 3.13 on
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve
    return np.frombuffer(mmap.mmap(-1, nbytes, flags), np.uint8)


class Program:
    """What a team runs: operations i64 [n, 2] of (kernel address, description address).

    Address 0 is a barrier. `own_bytes` is the memory each of `threads` threads has for itself;
    `steps` tells what the operations are, `keep` are the arrays the descriptions point to.
    """

    def __init__(
        self, operations: I64, own_bytes: int, threads: int, steps: list[Step], keep: list[Any]
    ) -> None:
        self.operations = operations
        self.steps = steps
        self.pieces = _pieces(operations)
        self.own_bytes = -(-own_bytes // 4096) * 4096 + 128
        self.own = aligned(self.own_bytes * threads)
        self._keep = keep


def _pieces(operations: I64) -> list[I64]:
    """Parts of a program, each of which ends with a barrier."""
    barriers = np.flatnonzero(operations[:, 0] == 0)
    return np.split(operations, barriers[_PIECE_BARRIERS - 1 :: _PIECE_BARRIERS] + 1)


class Team:
    """`count` threads, the caller's among them."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._control = aligned(execute.control_bytes(count))
        self._at = self._control.ctypes.data
        for each in (execute.run, execute.dismiss, execute.work):
            _ = each.address  # compile before threads could ask for it at once
        self._parks = [new_lock() for _ in range(1, count)]
        self._set(execute.ACQUIRE, ACQUIRE)
        self._set(execute.RELEASE, RELEASE)
        for index, park in enumerate(self._parks, 1):
            self._set(execute.WORKERS + index * execute.LINE + execute.LOCK, park)
        self._lock = threading.Lock()
        self._closed = False
        self._workers = [
            threading.Thread(target=self._work, args=(i,), daemon=True, name=f"ggq-{i}")
            for i in range(1, count)
        ]
        # At its end Python frees what workers still look at.
        atexit.register(self.close)
        try:
            for worker in self._workers:
                worker.start()
            self._pace = Pace(count)
            self._clocks = Clocks(self._workers)
        except BaseException:
            self.close()
            raise

    def _set(self, offset: int, word: int) -> None:
        self._control[offset : offset + 8].view(np.int64)[0] = word

    def _work(self, index: int) -> None:
        execute.work(self._at, index, _SPINS)

    def require_open(self) -> None:
        """Raise ValueError once the team is closed: the weights may be unmapped by then."""
        if self._closed:
            raise ValueError("the model is closed")

    def run(self, program: Program, state: I64, stamps: I64 | None = None) -> None:
        """Run a program on the tokens that `state` describes (kernels/_op.py).

        `stamps` i64 [threads, operations + 2] takes the cycle counter of every thread at its
        begin, behind every operation or barrier, and at its end.
        """
        with self._lock:
            self.require_open()
            if stamps is not None:
                self._run(program.operations, program, state, stamps.ctypes.data, self.count)
            elif state[N_TOKENS] == 1:
                self._run_measured(program, state)
            else:
                # Between the pieces Python can see that Ctrl-C was pressed.
                for piece in program.pieces:
                    self._run(piece, program, state, 0, self._pace.count)

    def _run_measured(self, program: Program, state: I64) -> None:
        """A token: many of them alike, so they tell how many threads are best."""
        count = self._pace.count
        start, busy = time.perf_counter(), self._clocks.read(count)
        self._run(program.operations, program, state, 0, count)
        seconds, after = time.perf_counter() - start, self._clocks.read(count)
        if len(after) == count:
            least = min(end - begin for begin, end in zip(busy, after, strict=True))
            self._pace.note(seconds, 1.0 - least / seconds)

    def _run(self, operations: I64, program: Program, state: I64, stamps: int, count: int) -> None:
        execute.run(
            self._at, count, operations.ctypes.data, len(operations), state.ctypes.data,
            program.own.ctypes.data, program.own_bytes, stamps,
        )  # fmt: skip

    def close(self) -> None:
        """End the worker threads; the team cannot run afterwards. May be called again."""
        atexit.unregister(self.close)
        with self._lock:
            self._closed = True
            execute.dismiss(self._at, self.count)
        for worker in self._workers:
            if worker.ident is not None:
                worker.join()
        while self._parks:
            free_lock(self._parks.pop())
