"""Read safetensors: u64 header length, JSON header, then the tensors without gap or overlap.

Nothing the header says is used before it is checked against the file.
Format: the README of huggingface/safetensors.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from ggq.convert.sources.mapped import MappedFile
from ggq.errors import SafetensorsError

MAX_HEADER_BYTES = 100_000_000
MAX_TENSORS = 1_000_000
MAX_DIMS = 8

# BF16 has no numpy type: its bits are read as u16.
DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U8": "|u1",
    "BOOL": "|b1",
}


@dataclass(frozen=True)
class SafeTensor:
    """One entry of the header. `start` counts from the beginning of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    nbytes: int

    @property
    def n_rows(self) -> int:
        """Rows: the first dimension of a tensor that has at least two; others are one row."""
        return self.shape[0] if len(self.shape) > 1 else 1

    @property
    def n_columns(self) -> int:
        """Weights of a row."""
        return prod(self.shape[1:]) if len(self.shape) > 1 else prod(self.shape)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.n_columns * np.dtype(DTYPES[self.dtype]).itemsize


class SafetensorsFile:
    """An open file. `tensors` by name, in the order of their data.

    Raises SafetensorsError for every fault, naming the file and the tensor.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = MappedFile(path)
        self.tensors = {tensor.name: tensor for tensor in self._read_header()}

    def rows(self, tensor: SafeTensor, start: int, stop: int) -> npt.NDArray[Any]:
        """[stop - start, columns] in the file's dtype (BF16 as u16 bits): a view of the map."""
        first = tensor.start + start * tensor.row_bytes
        raw = self.file.view(first, (stop - start) * tensor.row_bytes)
        return raw.view(DTYPES[tensor.dtype]).reshape(stop - start, tensor.n_columns)

    def release(self, tensor: SafeTensor, start: int, stop: int) -> None:
        """Let go of the memory behind these rows."""
        first = tensor.start + start * tensor.row_bytes
        self.file.release(first, (stop - start) * tensor.row_bytes)

    def read(self, tensor: SafeTensor, start: int, stop: int) -> None:
        """Bring these rows into memory."""
        first = tensor.start + start * tensor.row_bytes
        self.file.read(first, (stop - start) * tensor.row_bytes)

    def will_need(self, tensor: SafeTensor, start: int, stop: int) -> None:
        """Let the system read these rows ahead."""
        first = tensor.start + start * tensor.row_bytes
        self.file.will_need(first, (stop - start) * tensor.row_bytes)

    def _wrong(self, message: str) -> NoReturn:
        raise SafetensorsError(f"{self.path}: {message}; the file is damaged or incomplete")

    def _read_header(self) -> list[SafeTensor]:
        size = self.file.nbytes
        if size < 8:
            self._wrong(f"the file has {size} bytes, a safetensors file has at least 8")
        length = int.from_bytes(self.file.view(0, 8).tobytes(), "little")
        if length > min(MAX_HEADER_BYTES, size - 8):
            self._wrong(
                f"the header is said to have {length:,} bytes, "
                f"but at most {min(MAX_HEADER_BYTES, size - 8):,} can be"
            )
        raw = self.file.view(8, length).tobytes()
        try:
            header = json.loads(raw.decode("utf-8"), object_pairs_hook=_without_duplicates)
        except (ValueError, RecursionError) as error:
            self._wrong(f"the header is not valid JSON: {str(error)[:200]}")
        if not isinstance(header, dict):
            self._wrong("the header is not a JSON object")
        header.pop("__metadata__", None)
        if len(header) > MAX_TENSORS:
            self._wrong(f"the header lists {len(header):,} tensors, more than {MAX_TENSORS:,}")
        tensors = [self._entry(name, entry, 8 + length) for name, entry in header.items()]
        tensors.sort(key=lambda tensor: (tensor.start, tensor.nbytes))
        position = 8 + length
        for tensor in tensors:
            if tensor.start != position:
                self._wrong(
                    f"tensor {tensor.name!r} begins at byte {tensor.start:,}, but the one before "
                    f"it ends at {position:,}: tensors must follow each other"
                )
            position += tensor.nbytes
        if position != size:
            self._wrong(f"the tensors end at byte {position:,}, but the file has {size:,}")
        return tensors

    def _entry(self, name: str, entry: Any, data_start: int) -> SafeTensor:
        if not isinstance(entry, dict):
            self._wrong(f"the header entry of tensor {name!r} is not an object")
        dtype: Any = entry.get("dtype")
        shape: Any = entry.get("shape")
        offsets: Any = entry.get("data_offsets")
        if not isinstance(dtype, str) or dtype not in DTYPES:
            raise SafetensorsError(
                f"{self.path}: tensor {name!r} has dtype {dtype!r}; "
                f"known are {', '.join(DTYPES)}: convert from the original checkpoint"
            )
        if not _counts(shape) or len(shape) > MAX_DIMS:
            self._wrong(f"tensor {name!r} has shape {shape!r}")
        if not _counts(offsets) or len(offsets) != 2:
            self._wrong(f"tensor {name!r} has data_offsets {offsets!r}")
        nbytes = prod(shape) * np.dtype(DTYPES[dtype]).itemsize
        if offsets[1] - offsets[0] != nbytes:
            self._wrong(
                f"tensor {name!r} of shape {shape} and dtype {dtype} has {nbytes:,} bytes, "
                f"but data_offsets {offsets} hold {offsets[1] - offsets[0]:,}"
            )
        return SafeTensor(name, dtype, tuple(shape), data_start + offsets[0], nbytes)


def _counts(values: Any) -> bool:
    """Whether `values` is a list of whole numbers from 0."""
    if not isinstance(values, list):
        return False
    return all(isinstance(v, int) and not isinstance(v, bool) and v >= 0 for v in values)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found
