"""Bounded reads from the bytes of a file: nothing is taken before it is known to be there."""

from __future__ import annotations

import struct
from array import array

import numpy as np
import numpy.typing as npt

from ggq.errors import LimitError, TruncatedError
from ggq.spec import MAX_ARRAY_ITEMS, MAX_STRING_BYTES

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


class Cursor:
    """Position in `view`, the whole file `path`. Every read raises FormatError at the end."""

    def __init__(self, view: memoryview, path: object) -> None:
        self.view = view
        self.path = path
        self.position = 0

    @property
    def remaining(self) -> int:
        """Bytes between the position and the end of the file."""
        return len(self.view) - self.position

    def take(self, nbytes: int, what: str) -> memoryview:
        """The next `nbytes` bytes, not copied."""
        start = self.position
        if nbytes > self.remaining:
            raise TruncatedError(
                f"the file ends inside {what}: {nbytes:,} bytes wanted, {self.remaining:,} left;"
                " the download is probably incomplete",
                path=self.path,
                offset_bytes=start,
            )
        self.position = start + nbytes
        return self.view[start : self.position]

    def u32(self, what: str) -> int:
        """The next unsigned 32-bit integer."""
        return int(_U32.unpack(self.take(4, what))[0])

    def u64(self, what: str) -> int:
        """The next unsigned 64-bit integer."""
        return int(_U64.unpack(self.take(8, what))[0])

    def count(self, what: str, bytes_each: int) -> int:
        """A u64 that counts things of at least `bytes_each` bytes that must follow."""
        at = self.position
        number = self.u64(f"the number of {what}")
        if number * bytes_each > self.remaining or number > MAX_ARRAY_ITEMS:
            room = min(self.remaining // bytes_each, MAX_ARRAY_ITEMS)
            raise LimitError(
                f"{number:,} {what} are announced, but the rest of the file has room for {room:,}",
                path=self.path,
                offset_bytes=at,
            )
        return number

    def string(self, what: str) -> bytes:
        """The next length-prefixed string."""
        at = self.position
        nbytes = self.u64(f"the length of {what}")
        if nbytes > MAX_STRING_BYTES or nbytes > self.remaining:
            raise LimitError(
                f"{what} is announced with {nbytes:,} bytes,"
                f" but the rest of the file has {self.remaining:,}"
                f" and a string at most {MAX_STRING_BYTES:,}",
                path=self.path,
                offset_bytes=at,
            )
        return bytes(self.take(nbytes, what))

    def skip_strings(self, count: int, what: str) -> npt.NDArray[np.int64]:
        """i64 [count + 1]: where each of the next `count` strings (length field first) begins.

        The strings are stepped over, not decoded; the last entry is the end of the last string.
        """
        starts = array("q", [self.position])
        position, end = self.position, len(self.view)
        length_at, append = _U64.unpack_from, starts.append
        view = self.view
        for _ in range(count):
            if position + 8 > end:
                break
            position += 8 + length_at(view, position)[0]
            if position > end:
                break
            append(position)
        if len(starts) <= count:
            raise TruncatedError(
                f"the file ends inside string {len(starts) - 1:,} of the {count:,} of {what}",
                path=self.path,
                offset_bytes=starts[-1],
            )
        self.position = position
        return np.frombuffer(starts, dtype=np.int64)
