"""A file read through a memory map, of which only the pages in use stay in memory."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ggq.errors import ConvertError

U8 = npt.NDArray[np.uint8]


class MappedFile:
    """`path`, mapped read-only. Raises ConvertError unless it is a regular file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise ConvertError(f"{path}: this is not a regular file")
        self.nbytes = path.stat().st_size
        self._map: mmap.mmap | None = None
        if self.nbytes:
            with path.open("rb") as stream:
                self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)

    def view(self, start: int, nbytes: int) -> U8:
        """u8 [nbytes] from byte `start`, without copying."""
        if not 0 <= start <= start + nbytes <= self.nbytes:
            raise ConvertError(
                f"{self.path}: bytes {start:,} to {start + nbytes:,} are wanted, "
                f"but the file has {self.nbytes:,}"
            )
        if self._map is None or not nbytes:
            return np.empty(0, np.uint8)
        return np.frombuffer(self._map, np.uint8, nbytes, start)

    def will_need(self, start: int, nbytes: int) -> None:
        """Let the system read these bytes ahead."""
        self._advise("MADV_WILLNEED", start // mmap.PAGESIZE * mmap.PAGESIZE, start + nbytes)

    def read(self, start: int, nbytes: int) -> None:
        """Bring these bytes into memory, other threads running on meanwhile."""
        first = start // mmap.PAGESIZE * mmap.PAGESIZE
        self.view(first, start + nbytes - first)[:: mmap.PAGESIZE].max(initial=0)

    def release(self, start: int, nbytes: int) -> None:
        """Drop the pages that lie within these bytes; reading them again brings them back."""
        last = (start + nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
        self._advise("MADV_DONTNEED", -(-start // mmap.PAGESIZE) * mmap.PAGESIZE, last)

    def _advise(self, name: str, start: int, stop: int) -> None:
        stop = min(stop, self.nbytes)
        # Advice is an optimisation: a system without it only uses more memory.
        if self._map is not None and hasattr(mmap, name) and stop > start:
            self._map.madvise(getattr(mmap, name), start, stop - start)


def same_file(one: Path, other: Path) -> bool:
    """Whether both names lead to the same file, through links of any kind."""
    return one.exists() and other.exists() and os.path.samefile(one, other)
