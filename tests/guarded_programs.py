"""Whole programs with every working buffer between guard pages: ... MODEL.gguf exact|rounded [K V]

    python -m tests.guarded_programs model.gguf rounded q8_0 q4_0

A write or read outside of a buffer faults. Prints a line per number of tokens.
"""

from __future__ import annotations

import ctypes
import mmap
import sys

import numpy as np
import numpy.typing as npt

import ggq
from ggq.runtime import graph, kvcache, rope, threads

PAGE = mmap.PAGESIZE
LENGTHS = (1, 2, 7, 8, 9, 15, 16, 17, 33, 511, 512, 513)
_maps: list[mmap.mmap] = []


def guarded(nbytes: int) -> npt.NDArray[np.uint8]:
    """In place of threads.aligned: as close before a guard page as its alignment allows."""
    size = -(-nbytes // PAGE) * PAGE
    memory = mmap.mmap(-1, size + 2 * PAGE)
    _maps.append(memory)
    whole = np.frombuffer(memory, np.uint8)
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for offset in (0, PAGE + size):
        if protect(whole.ctypes.data + offset, PAGE, 0):
            raise OSError(ctypes.get_errno(), "mprotect")
    start = PAGE + size - nbytes
    start -= (whole.ctypes.data + start) % 64
    return whole[start : start + nbytes]


def main(path: str, exact: bool, k_type: str = "f16", v_type: str = "f16") -> None:
    """Prefill, decode and score texts of every length up to beyond one batch."""
    for module in (threads, graph, kvcache, rope):
        module.aligned = guarded
    types = {"cache_type_k": k_type, "cache_type_v": v_type}
    with ggq.load(path, n_threads=1, exact=exact, **types) as model:
        for length in LENGTHS:
            print(length, flush=True)
            ids = (np.arange(length) % (model.hparams.n_vocab - 8) + 5).tolist()
            session = model.session(length + 2)
            session.prefill(ids)
            session.decode(3)
            session.decode(4)
            session.rewind(0)
            session.score(ids)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] == "exact", *sys.argv[3:])
