"""A plain GGUF v3 writer: test inputs must not pass through the code under test.

Layout: llama.cpp ggml/src/gguf.cpp. Also writes files whose tensor data is absent.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

ALIGNMENT = 32
SCALARS = {
    "u8": (0, "<B"), "i8": (1, "<b"), "u16": (2, "<H"), "i16": (3, "<h"), "u32": (4, "<I"),
    "i32": (5, "<i"), "f32": (6, "<f"), "bool": (7, "<?"), "u64": (10, "<Q"), "i64": (11, "<q"),
    "f64": (12, "<d"),
}  # fmt: skip
STRING, ARRAY = 8, 9
F32, F16, BF16 = 0, 1, 30
ITEM_BYTES = {F32: 4, F16: 2, BF16: 2}


class Key(NamedTuple):
    """One metadata entry; `kind` is a scalar name, "str", or "[" + either for an array."""

    name: str
    kind: str
    value: Any


class TensorSpec(NamedTuple):
    """One tensor: rows-first shape, ggml type number, bytes (None in a header-only file)."""

    name: str
    shape: tuple[int, ...]
    type: int
    data: bytes | npt.NDArray[Any] | None
    nbytes: int


def float_tensor(name: str, x: npt.NDArray[np.float32], type: int = F32) -> TensorSpec:
    """Array as an F32, F16 or BF16 tensor (BF16 rounded to nearest even)."""
    data: npt.NDArray[Any] = np.ascontiguousarray(x, "<f4")
    if type == F16:
        data = data.astype("<f2")
    elif type == BF16:
        data = bf16_bits(data)
    return TensorSpec(name, x.shape, type, data, data.nbytes)


def absent_tensor(name: str, shape: tuple[int, ...], type: int = F32) -> TensorSpec:
    """A tensor of a header-only file: no bytes behind it."""
    return TensorSpec(name, shape, type, None, int(np.prod(shape)) * ITEM_BYTES[type])


def bf16_bits(x: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Upper halves of finite singles, rounded to nearest even."""
    bits = x.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def write_gguf(path: Path, keys: Iterable[Key], tensors: Sequence[TensorSpec] = ()) -> Path:
    """Write the file; if a tensor has no data the file ends where the data would begin."""
    keys = list(keys)
    header = [b"GGUF", struct.pack("<Iqq", 3, len(tensors), len(keys))]
    header += [_string(key.name) + _value(key.kind, key.value) for key in keys]
    offset = 0
    for tensor in tensors:
        ne = tensor.shape[::-1]
        header.append(_string(tensor.name) + struct.pack(f"<I{len(ne)}q", len(ne), *ne))
        header.append(struct.pack("<iQ", tensor.type, offset))
        offset += _padded(tensor.nbytes)
    whole = b"".join(header)
    with path.open("wb") as file:
        file.write(whole.ljust(_padded(len(whole)), b"\0"))
        if any(tensor.data is None for tensor in tensors):
            return path
        for tensor in tensors:
            file.write(memoryview(np.ascontiguousarray(tensor.data)).cast("B"))
            file.write(bytes(_padded(tensor.nbytes) - tensor.nbytes))
    return path


def _padded(n: int) -> int:
    return -(-n // ALIGNMENT) * ALIGNMENT


def _string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def _value(kind: str, value: Any) -> bytes:
    if kind.startswith("["):
        item = kind[1:]
        head = struct.pack("<iiQ", ARRAY, _number(item), len(value))
        return head + b"".join(_item(item, x) for x in value)
    return struct.pack("<i", _number(kind)) + _item(kind, value)


def _number(kind: str) -> int:
    return STRING if kind == "str" else SCALARS[kind][0]


def _item(kind: str, value: Any) -> bytes:
    return _string(value) if kind == "str" else struct.pack(SCALARS[kind][1], value)
