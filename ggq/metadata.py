"""The typed key/value pairs of a GGUF file, and their bytes.

A pair is: key string, u32 type, value. A string is u64 length + bytes. An array is u32 item type,
u64 count, items; arrays do not nest.
Source: llama.cpp ggml/src/gguf.cpp.
"""

from __future__ import annotations

import builtins
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from ggq.cursor import Cursor
from ggq.errors import (
    AlignmentError,
    DuplicateKeyError,
    MetadataKeyError,
    MetadataTypeError,
    MissingKeyError,
)
from ggq.spec import ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAX_ALIGNMENT, NUMBERS, ValueType
from ggq.strings import StringArray, decode_text, encode_string, encode_text

T = TypeVar("T")

_MIN_PAIR_BYTES = 8 + 1 + 4 + 1


@dataclass(frozen=True)
class _Entry:
    value: Any
    type: ValueType
    item_type: ValueType | None


class Metadata(Mapping[str, Any]):
    """Ordered key -> value.

    Scalars are int, float, bool or str; arrays of numbers are numpy arrays, arrays of strings
    StringArray. `source` is the name of the file in error messages. Two are equal if they have
    the same keys, types and values in the same order.
    """

    def __init__(self, source: object = None) -> None:
        self.source = source
        self._entries: dict[str, _Entry] = {}

    def __getitem__(self, key: str) -> Any:
        return self._entry(key).value

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Metadata) and self.encode() == other.encode()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<Metadata of {len(self)} keys>"

    def _entry(self, key: str) -> _Entry:
        try:
            return self._entries[key]
        except KeyError:
            raise MissingKeyError(f"key {key!r} is missing", path=self.source) from None

    def type(self, key: str) -> ValueType:
        """Type of the value. Raises MissingKeyError."""
        return self._entry(key).type

    def item_type(self, key: str) -> ValueType | None:
        """Type of the items of an array, None for a scalar. Raises MissingKeyError."""
        return self._entry(key).item_type

    def set(
        self, key: str, value: Any, type: ValueType, item_type: ValueType | None = None
    ) -> None:
        """Set `key`; a new key goes to the end, a known one keeps its place.

        `item_type` is needed for arrays only; strings may be str or bytes. Numbers are rounded
        to the type's precision at once, so what is read back equals what is set.
        Raises MetadataTypeError, MetadataKeyError.
        """
        _check_key(key)
        if type is ValueType.ARRAY:
            checked = _checked_array(key, value, item_type)
        else:
            checked, item_type = _checked_scalar(key, value, type), None
        self._entries[key] = _Entry(checked, type, item_type)

    def pop(self, key: str) -> Any:
        """Remove `key` and give its value. Raises MissingKeyError."""
        value = self[key]
        del self._entries[key]
        return value

    def copy(self) -> Metadata:
        """The same pairs; arrays are shared."""
        other = Metadata(self.source)
        other._entries = dict(self._entries)
        return other

    def require(self, key: str, kind: builtins.type[T]) -> T:
        """Value of `key`, which must be there and be an int, float, bool, str or array `kind`.

        `kind` float takes F32 and F64 only, int any integer type but not BOOL.
        Raises MissingKeyError, MetadataTypeError.
        """
        entry = self._entry(key)
        value = entry.value
        if not isinstance(value, kind) or (kind is int and entry.type is ValueType.BOOL):
            raise MetadataTypeError(
                f"key {key!r} is {_type_name(entry)}, but {kind.__name__} is wanted",
                path=self.source,
            )
        return value

    def get_int(self, key: str, default: int) -> int:
        """Integer of `key`, or `default` if it is not there. Raises MetadataTypeError."""
        return self.require(key, int) if key in self._entries else default

    def get_float(self, key: str, default: float) -> float:
        """Float of `key`, or `default` if it is not there. Raises MetadataTypeError."""
        return self.require(key, float) if key in self._entries else default

    def get_bool(self, key: str, default: bool) -> bool:
        """Bool of `key`, or `default` if it is not there. Raises MetadataTypeError."""
        return self.require(key, bool) if key in self._entries else default

    def get_str(self, key: str, default: str) -> str:
        """Text of `key`, or `default` if it is not there. Raises MetadataTypeError."""
        return self.require(key, str) if key in self._entries else default

    def encode(self) -> bytes:
        """The pairs as they stand in a file, without their number."""
        parts: list[bytes] = []
        for key, entry in self._entries.items():
            parts += (encode_string(encode_text(key)), struct.pack("<I", entry.type))
            parts.append(_encode_value(entry))
        return b"".join(parts)

    @classmethod
    def decode(cls, cursor: Cursor, count: int) -> Metadata:
        """`count` pairs from `cursor`. Arrays are views of its bytes. Raises FormatError."""
        metadata = cls(cursor.path)
        for index in range(count):
            at = cursor.position
            raw = cursor.string(f"the key of pair {index} of {count}")
            key = _decode_key(raw, cursor.path, at)
            if key in metadata._entries:
                raise DuplicateKeyError(
                    f"key {key!r} occurs twice", path=cursor.path, offset_bytes=at
                )
            metadata._entries[key] = _decode_entry(cursor, f"key {key!r}")
        return metadata


def read_pair_count(cursor: Cursor) -> int:
    """Number of pairs, checked against the bytes that follow. Raises LimitError."""
    return cursor.count("key/value pairs", _MIN_PAIR_BYTES)


def read_alignment(metadata: Metadata) -> int:
    """Alignment of the tensor data. Raises MetadataTypeError, AlignmentError."""
    if ALIGNMENT_KEY not in metadata:
        return DEFAULT_ALIGNMENT
    if metadata.type(ALIGNMENT_KEY) is not ValueType.U32:
        raise MetadataTypeError(
            f"{ALIGNMENT_KEY} is {metadata.type(ALIGNMENT_KEY).name}, but U32 is wanted",
            path=metadata.source,
        )
    alignment = metadata.require(ALIGNMENT_KEY, int)
    if not 0 < alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
        raise AlignmentError(
            f"{ALIGNMENT_KEY} is {alignment:,}, but a power of two up to {MAX_ALIGNMENT:,}"
            " is wanted",
            path=metadata.source,
        )
    return alignment


def _check_key(key: str) -> None:
    try:
        raw = key.encode()
    except UnicodeEncodeError:
        raw = b""
    if not raw:
        raise MetadataKeyError(f"a key is a non-empty UTF-8 text, not {key!r}")


def _decode_key(raw: bytes, path: object, at: int) -> str:
    if not raw:
        raise MetadataKeyError("a key is empty", path=path, offset_bytes=at)
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise MetadataKeyError(
            f"key {raw[:80]!r} is not UTF-8: {error.reason}", path=path, offset_bytes=at
        ) from None


def _read_type(cursor: Cursor, what: str) -> ValueType:
    at = cursor.position
    number = cursor.u32(f"the type of {what}")
    try:
        return ValueType(number)
    except ValueError:
        raise MetadataTypeError(
            f"{what} has value type {number}; known are 0 to {max(ValueType)}",
            path=cursor.path,
            offset_bytes=at,
        ) from None


def _decode_entry(cursor: Cursor, what: str) -> _Entry:
    kind = _read_type(cursor, what)
    if kind is ValueType.STRING:
        return _Entry(decode_text(cursor.string(f"the value of {what}")), kind, None)
    if kind is not ValueType.ARRAY:
        dtype = NUMBERS[kind]
        raw = np.frombuffer(cursor.take(dtype.itemsize, f"the value of {what}"), _stored(dtype))
        return _Entry(raw.astype(dtype)[0].item(), kind, None)
    at = cursor.position
    item = _read_type(cursor, f"the items of {what}")
    if item is ValueType.ARRAY:
        raise MetadataTypeError(
            f"{what} is an array of arrays; arrays hold numbers or strings only",
            path=cursor.path,
            offset_bytes=at,
        )
    if item is ValueType.STRING:
        count = cursor.count(f"strings of {what}", 8)
        starts = cursor.skip_strings(count, what)
        view = cursor.view[int(starts[0]) : int(starts[-1])]
        return _Entry(StringArray(view, starts - starts[0]), kind, item)
    dtype = NUMBERS[item]
    count = cursor.count(f"items of {what}", dtype.itemsize)
    items = np.frombuffer(cursor.take(count * dtype.itemsize, what), _stored(dtype))
    # Any byte but 0 is true in the file, but not in a numpy bool.
    return _Entry(items != 0 if item is ValueType.BOOL else items, kind, item)


def _stored(dtype: np.dtype[np.generic]) -> np.dtype[np.generic]:
    return np.dtype("u1") if dtype.kind == "b" else dtype


def _encode_value(entry: _Entry) -> bytes:
    if entry.type is ValueType.STRING:
        return encode_string(encode_text(entry.value))
    if entry.type is not ValueType.ARRAY:
        return np.array(entry.value, NUMBERS[entry.type]).tobytes()
    assert entry.item_type is not None
    head = struct.pack("<IQ", entry.item_type, len(entry.value))
    if isinstance(entry.value, StringArray):
        return head + entry.value.encoded()
    items: np.ndarray[Any, Any] = entry.value
    return head + items.tobytes()


def _checked_scalar(key: str, value: Any, type: ValueType) -> Any:
    if type is ValueType.STRING:
        return _checked_strings(key, [value])[0]
    if np.ndim(value):
        raise MetadataTypeError(f"key {key!r}: an array is given, but a {type.name} is wanted")
    return _checked_numbers(key, np.asarray(value), type).item()


def _checked_array(key: str, value: Any, item_type: ValueType | None) -> Any:
    if item_type is None or item_type is ValueType.ARRAY:
        raise MetadataTypeError(f"key {key!r}: an array needs a scalar item type, not {item_type}")
    if item_type is ValueType.STRING:
        return value if isinstance(value, StringArray) else _checked_strings(key, value)
    items = np.asarray(value)
    if item_type is ValueType.U64 and items.dtype.kind == "f" and _are_u64(value):
        items = np.array(value, np.uint64)  # numpy makes floats of small and big integers
    if items.ndim != 1:
        raise MetadataTypeError(f"key {key!r}: an array has one dimension, not {items.ndim}")
    return _checked_numbers(key, items, item_type)


def _are_u64(value: Any) -> bool:
    return all(isinstance(item, int) and 0 <= item < 1 << 64 for item in value)


def _checked_strings(key: str, value: Any) -> StringArray:
    try:
        return StringArray.of(value)
    except (TypeError, UnicodeEncodeError) as error:
        raise MetadataTypeError(f"key {key!r}: this is not text: {error}") from None


def _checked_numbers(
    key: str, items: np.ndarray[Any, Any], type: ValueType
) -> np.ndarray[Any, Any]:
    """`items` in the type's dtype; integers must fit exactly."""
    dtype = NUMBERS[type]
    allowed = {"b": "b", "i": "iu", "u": "iu", "f": "iuf"}[dtype.kind]
    fits = items.dtype.kind in allowed or not items.size
    if fits and dtype.kind in "iu" and items.size:
        limits = np.iinfo(dtype)  # type: ignore[type-var]
        fits = bool(limits.min <= items.min() and items.max() <= limits.max)
    if not fits:
        shown = items.reshape(-1)[:4].tolist()
        raise MetadataTypeError(f"key {key!r}: {shown} of {items.size:,} is not {type.name}")
    with np.errstate(over="ignore", invalid="ignore"):
        return items.astype(dtype)


def _type_name(entry: _Entry) -> str:
    if entry.item_type is None:
        return entry.type.name
    return f"an array of {entry.item_type.name}"
