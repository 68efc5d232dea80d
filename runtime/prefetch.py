"""Brings weights into the process while it still gets ready to use them.

The first token reads all weights, and each page it is the first to touch interrupts it: a fifth of
the time of a short prompt, when the file is in memory already.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import threading
from collections.abc import Iterable

from ggq.reader import Tensor

_POPULATE_READ = 22  # advice of Linux 5.14 and later, refused by older ones
_CHUNK_BYTES = 8 << 20  # whoever changes the map of the process waits for one


class Prefetch:
    """Touches the pages of what every token reads, on a thread of its own, until it is closed.

    That is not the experts, of which a token reads few. Models of more than half of the memory are
    left alone: their pages would push each other out.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self._closed = False
        self._tensors = [tensor for tensor in tensors if len(tensor.shape) == 2]
        self._thread = threading.Thread(target=self._touch, daemon=True, name="prefetch")
        if sys.platform == "linux" and 2 * sum(t.nbytes for t in self._tensors) <= _memory():
            self._thread.start()

    def close(self) -> None:
        """Return when nothing is touched any more."""
        self._closed = True
        if self._thread.is_alive():
            self._thread.join()

    def _touch(self) -> None:
        advise = ctypes.CDLL(None).madvise
        advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        for tensor in self._tensors:
            start = tensor.address // mmap.PAGESIZE * mmap.PAGESIZE
            end = tensor.address + tensor.nbytes
            for at in range(start, end, _CHUNK_BYTES):
                if self._closed or advise(at, min(_CHUNK_BYTES, end - at), _POPULATE_READ):
                    return


def _memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
