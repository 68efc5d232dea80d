"""The description of a tensor in the file: read, checked and written.

Name string, u32 dimensions, u64 each dimension (weights of a row first), u32 type, u64 offset from
the start of the data.
Source: llama.cpp ggml/src/gguf.cpp.
"""

from __future__ import annotations

import struct

from ggq.blocks import BlockType, by_id
from ggq.cursor import Cursor
from ggq.errors import (
    LimitError,
    TensorNameError,
    TensorShapeError,
    TensorTypeError,
    UnknownTypeError,
)
from ggq.spec import MAX_DIMS, MAX_NAME_BYTES, MAX_WEIGHTS, TensorInfo
from ggq.strings import encode_string

MIN_INFO_BYTES = 8 + 1 + 4 + 4 + 8


def read_info(cursor: Cursor, what: str) -> tuple[TensorInfo, int]:
    """The next tensor, checked, and the offset announced for it. Raises FormatError."""
    at = cursor.position
    name = _decode_name(cursor.string(f"the name of {what}"), cursor.path, at)
    at = cursor.position
    n_dims = cursor.u32(f"the dimensions of tensor {name!r}")
    if n_dims > MAX_DIMS:
        raise TensorShapeError(
            f"tensor {name!r} has {n_dims:,} dimensions, but at most {MAX_DIMS} are possible",
            path=cursor.path,
            offset_bytes=at,
        )
    shape = tuple(cursor.u64(f"dimension {i} of tensor {name!r}") for i in range(n_dims))[::-1]
    info = TensorInfo(name, shape, _read_type(cursor, name))
    check_shape(info, cursor.path, at)
    return info, cursor.u64(f"the offset of tensor {name!r}")


def encode_info(info: TensorInfo, offset: int) -> bytes:
    """The bytes of one tensor info. Raises TensorNameError, TensorShapeError, LimitError."""
    raw = info.name.encode("utf-8", "surrogatepass")
    _decode_name(raw, None, None)
    check_shape(info)
    dims = info.shape[::-1]
    fields = struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, info.type.id, offset)
    return encode_string(raw) + fields


def check_shape(info: TensorInfo, path: object = None, at: int | None = None) -> None:
    """Check that the dimensions are possible. Raises TensorShapeError, LimitError."""
    if len(info.shape) > MAX_DIMS or min(info.shape, default=0) < 0:
        raise TensorShapeError(
            f"tensor {info.name!r} has shape {info.shape}, but at most {MAX_DIMS} dimensions"
            " of 0 or more are possible",
            path=path,
            offset_bytes=at,
        )
    product = 1
    for dim in info.shape:
        # A zero does not excuse the others: their strides must be representable as well.
        product *= max(dim, 1)
    if product > MAX_WEIGHTS:
        raise TensorShapeError(
            f"tensor {info.name!r} has shape {info.shape}: more weights than a file can hold",
            path=path,
            offset_bytes=at,
        )
    columns = info.shape[-1] if info.shape else 1
    if columns % info.type.weights:
        raise TensorShapeError(
            f"tensor {info.name!r} has rows of {columns:,} weights, but {info.type} needs a"
            f" multiple of {info.type.weights}",
            path=path,
            offset_bytes=at,
        )
    if info.nbytes > MAX_WEIGHTS:
        raise LimitError(
            f"tensor {info.name!r} of shape {info.shape} needs {info.nbytes:,} bytes",
            path=path,
            offset_bytes=at,
        )


def _decode_name(raw: bytes, path: object, at: int | None) -> str:
    if not 0 < len(raw) <= MAX_NAME_BYTES:
        raise TensorNameError(
            f"a tensor name has {len(raw)} bytes, but 1 to {MAX_NAME_BYTES} are possible",
            path=path,
            offset_bytes=at,
        )
    if b"\0" in raw:  # C programs would see the part before it only
        raise TensorNameError(
            f"tensor name {raw!r} has a NUL character in it", path=path, offset_bytes=at
        )
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise TensorNameError(
            f"tensor name {raw!r} is not UTF-8: {error.reason}", path=path, offset_bytes=at
        ) from None


def _read_type(cursor: Cursor, name: str) -> BlockType:
    at = cursor.position
    number = cursor.u32(f"the type of tensor {name!r}")
    try:
        return by_id(number)
    except UnknownTypeError as error:
        raise TensorTypeError(
            f"tensor {name!r}: {error}", path=cursor.path, offset_bytes=at
        ) from None
