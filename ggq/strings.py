"""Strings as GGUF stores them: u64 length and bytes, which need not be valid UTF-8."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import overload

import numpy as np
import numpy.typing as npt


def decode_text(raw: bytes) -> str:
    """Text of `raw`; bytes that are not UTF-8 become lone surrogates and survive a rewrite."""
    return raw.decode("utf-8", "surrogateescape")


def encode_text(text: str) -> bytes:
    """Bytes of `text`, the inverse of decode_text."""
    return text.encode("utf-8", "surrogateescape")


def encode_string(raw: bytes) -> bytes:
    """`raw` with its length in front."""
    return struct.pack("<Q", len(raw)) + raw


def _raw(item: object) -> bytes:
    if isinstance(item, str):
        return encode_text(item)
    if isinstance(item, bytes):
        return item
    raise TypeError(f"{item!r} is neither str nor bytes")


class StringArray(Sequence[str]):
    """Many strings, decoded on demand.

    `view` holds the strings with their lengths in front and nothing else; `starts` i64 [n + 1]
    says where in it each begins, and where the last one ends.
    """

    def __init__(self, view: memoryview, starts: npt.NDArray[np.int64]) -> None:
        self._view = view
        self._starts = starts

    @classmethod
    def of(cls, items: Iterable[str | bytes]) -> StringArray:
        """An array of the given texts. Raises TypeError for anything that is not text."""
        if isinstance(items, str | bytes):
            raise TypeError("one text is given, but many are wanted")
        raws = [_raw(item) for item in items]
        lengths = np.array([0] + [8 + len(raw) for raw in raws], np.int64)
        blob = b"".join(map(encode_string, raws))
        return cls(memoryview(blob), np.cumsum(lengths))

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return decode_text(self.raw(index))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, StringArray):
            return len(self) == len(other) and self.encoded() == other.encoded()
        return isinstance(other, Sequence) and self.tolist() == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<StringArray of {len(self)}>"

    def raw(self, index: int) -> bytes:
        """Bytes of one string, without its length."""
        n = len(self)
        if not -n <= index < n:
            raise IndexError(f"string {index} of {n}")
        index %= n
        return bytes(self._view[self._starts[index] + 8 : self._starts[index + 1]])

    def raw_list(self) -> list[bytes]:
        """Bytes of every string."""
        joined = self._joined()
        if joined is not None:
            return joined.split(b"\0")
        blob = self.encoded()
        return [blob[start + 8 : end] for start, end in pairwise(self._starts.tolist())]

    def tolist(self) -> list[str]:
        """Every string, decoded."""
        joined = self._joined()
        if joined is not None:
            return decode_text(joined).split("\0")
        return [decode_text(raw) for raw in self.raw_list()]

    def _joined(self) -> bytes | None:
        """The strings with a NUL between them; None without strings, or if one has a NUL in it."""
        if not len(self):
            return None
        begins = self._starts[:-1]
        is_wanted = np.ones(len(self._view), bool)
        for place in range(7):
            is_wanted[begins + place] = False
        is_wanted[7] = False  # the last byte of the other lengths, always 0, stands between
        joined = np.frombuffer(self._view, np.uint8)[is_wanted].tobytes()
        return joined if joined.count(0) == len(self) - 1 else None

    def encoded(self) -> bytes:
        """The strings with their lengths, as they stand in a file."""
        return bytes(self._view)
