"""Bounded reads from the bytes of a file: nothing is taken before it is known to be there."""

from __future__ import annotations

import struct
from array import array

import numpy as np
import numpy.typing as npt

from ggq.errors import LimitError, TruncatedError
from ggq.spec import MAX_ARRAY_ITEMS, MAX_STRING_BYTES

Starts = npt.NDArray[np.int64]

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

    def skip_strings(self, count: int, what: str) -> Starts:
        """i64 [count + 1]: where each of the next `count` strings (length field first) begins.

        The strings are stepped over, not decoded; the last entry is the end of the last string.
        """
        starts = _walk_short(self.view, self.position, count)
        if starts is None:
            starts = self._walk(count, what)
        self.position = int(starts[-1])
        return starts

    def _walk(self, count: int, what: str) -> Starts:
        view, position, end = self.view, self.position, len(self.view)
        starts = array("q", [position])
        for index in range(count):
            if position + 8 <= end:
                position += 8 + _U64.unpack_from(view, position)[0]
            if position > end or position == starts[-1]:
                raise TruncatedError(
                    f"the file ends inside string {index:,} of the {count:,} of {what}",
                    path=self.path,
                    offset_bytes=starts[-1],
                )
            starts.append(position)
        return np.frombuffer(starts, np.int64)


def _walk_short(view: memoryview, position: int, count: int) -> Starts | None:
    """`_walk` for strings shorter than 256 bytes, whose length is in one byte; None for others.

    Vocabularies of 262,144 tokens are walked when a file is opened: this is more than twice as
    fast, with all lengths checked at once afterwards.
    """
    starts = array("q", [position])
    append = starts.append
    try:
        for _ in range(count):
            position += 8 + view[position]
            append(position)
    except IndexError:
        return None
    if position > len(view):
        return None
    walked = np.frombuffer(starts, np.int64)
    words = np.ndarray((max(len(view) - 7, 0),), "<u8", view, strides=(1,))
    if not np.array_equal(words[walked[:-1]], np.diff(walked).astype(np.uint64) - 8):
        return None
    return walked
