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
        starts = _find_short(self.view, self.position, count)
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


def _find_short(view: memoryview, position: int, count: int) -> Starts | None:
    """`_walk` of strings of 1 to 255 bytes without NUL, all at once; None for others.

    Only where such a string begins do eight bytes make a number below 256. That is how it goes for
    vocabularies, which may have 262,144 tokens and are walked whenever a file is opened.
    """
    nbytes = 0
    starts = np.empty(0, np.int64)
    while len(starts) < count and nbytes < len(view) - position:
        nbytes = min(2 * nbytes + 16 * count, len(view) - position)
        words = np.ndarray((max(nbytes - 7, 0),), "<u8", view, position, (1,))
        starts = np.flatnonzero(words < 256)
    if not 0 < count <= len(starts):
        return None
    starts = starts[:count]
    ends = starts + 8 + words[starts].astype(np.int64)
    if starts[0] or not np.array_equal(starts[1:], ends[:-1]) or ends[-1] > len(view) - position:
        return None
    return position + np.append(starts, ends[-1])
