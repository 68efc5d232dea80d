"""GGUF files piece by piece, so that any piece can be wrong. Nothing here uses the code under test.

Layout: llama.cpp ggml/src/gguf.cpp.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
M64 = (1 << 64) - 1


def u32(number: int) -> bytes:
    return struct.pack("<I", number & 0xFFFFFFFF)


def u64(number: int) -> bytes:
    return struct.pack("<Q", number & M64)


def string(raw: bytes, length: int | None = None) -> bytes:
    return u64(len(raw) if length is None else length) + raw


def pair(key: bytes, kind: int, value: bytes) -> bytes:
    return string(key) + u32(kind) + value


def array(kind: int, count: int, items: bytes) -> bytes:
    return u32(kind) + u64(count) + items


def info(
    name: bytes = b"t",
    dims: Sequence[int] = (32,),
    kind: int = 0,
    offset: int = 0,
    n_dims: int | None = None,
) -> bytes:
    """One tensor info; `dims` in the file's order, weights of a row first."""
    head = string(name) + u32(len(dims) if n_dims is None else n_dims)
    return head + b"".join(map(u64, dims)) + u32(kind) + u64(offset)


def gguf(
    pairs: Sequence[bytes] = (),
    infos: Sequence[bytes] = (),
    data: bytes = b"",
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    n_tensors: int | None = None,
    n_pairs: int | None = None,
    alignment: int = 32,
) -> bytes:
    head = magic + u32(version)
    head += u64(len(infos) if n_tensors is None else n_tensors)
    head += u64(len(pairs) if n_pairs is None else n_pairs)
    head += b"".join(pairs) + b"".join(infos)
    return head + bytes(-len(head) % alignment) + data


def every_kind() -> list[bytes]:
    """A pair of every value type and an array of every item type."""
    numbers = {
        U8: b"\xc8", I8: b"\xc8", U16: b"\x39\x30", I16: b"\xc7\xcf", U32: u32(3_000_000_000),
        I32: u32(-7), F32: struct.pack("<f", 0.1), BOOL: b"\x01", U64: u64(M64), I64: u64(-9),
        F64: struct.pack("<d", 0.1), STRING: string(b"caf\xc3\xa9"),
    }  # fmt: skip
    scalars = [pair(b"scalar.%d" % kind, kind, value) for kind, value in numbers.items()]
    arrays = [
        pair(b"array.%d" % kind, ARRAY, array(kind, 3, value * 3))
        for kind, value in numbers.items()
    ]
    empty = pair(b"array.empty", ARRAY, array(STRING, 0, b""))
    broken = pair(b"not.utf8", STRING, string(b"\xff\xfe\xed\xa0\x80"))
    return [*scalars, *arrays, empty, broken]
