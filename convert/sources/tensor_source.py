"""Tensors of a source as GGUF has them, read some rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ggq.blocks import by_name
from ggq.convert.sources.mapped import MappedFile
from ggq.convert.sources.safetensors import SafeTensor, SafetensorsFile
from ggq.metadata import Metadata
from ggq.reader import Tensor
from ggq.runtime.arch import TensorRule
from ggq.spec import TensorInfo

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]

# Types as the plan shows them; a checkpoint's whole numbers become F32.
BLOCK_OF_DTYPE = {"F64": "F64", "F32": "F32", "F16": "F16", "BF16": "BF16"}


class TensorSource:
    """One tensor: `info` as in GGUF, with the type the source has.

    Rows are counted over all dimensions but the last. Reading begins and ends at multiples of
    `group` rows. `has_stored`: the source holds these very bytes.
    """

    info: TensorInfo
    group: int = 1
    has_stored: bool = False

    @property
    def n_rows(self) -> int:
        """Rows of the tensor; a 1-D tensor is one row."""
        return prod(self.info.shape[:-1])

    def floats(self, start: int, stop: int) -> F32:
        """f32 [stop - start, columns]: the values of these rows."""
        raise NotImplementedError

    def stored(self, start: int, stop: int) -> U8:
        """u8 [stop - start, row_bytes]: these rows as the source holds them, if `has_stored`."""
        raise NotImplementedError

    def will_need(self, start: int, stop: int) -> None:
        """Announce that these rows are read soon."""

    def read(self, start: int, stop: int) -> None:
        """Bring these rows into memory: what waits for the disk waits here."""

    def release(self, start: int, stop: int) -> None:
        """Announce that these rows are not read again."""


class CheckpointTensor(TensorSource):
    """A tensor of a safetensors file, brought into GGUF's layout by `rule`."""

    def __init__(self, file: SafetensorsFile, tensor: SafeTensor, rule: TensorRule) -> None:
        self._file = file
        self._tensor = tensor
        self._transform = rule.transform
        if rule.transform is not None and len(rule.source_shape) > 1:
            self.group = rule.transform.rows
        block = by_name(BLOCK_OF_DTYPE.get(tensor.dtype, "F32"))
        self.info = TensorInfo(rule.name, rule.source_shape, block)

    def floats(self, start: int, stop: int) -> F32:
        """The checkpoint's values; F16 stays F16 until the layout is right, as in llama.cpp."""
        raw: npt.NDArray[Any] = self._file.rows(self._tensor, start, stop)
        if self._tensor.dtype == "BF16":
            raw = by_name("BF16").dequantize(raw.view(np.uint8))
        elif self._tensor.dtype != "F16":
            with np.errstate(over="ignore"):  # what F64 holds beyond F32 is refused as infinite
                raw = raw.astype(np.float32, copy=False)
        if self._transform is not None:
            shape = raw.shape
            flat = raw.reshape(-1) if len(self.info.shape) == 1 else raw
            raw = self._transform.to_gguf(flat).reshape(shape)
        return np.ascontiguousarray(raw, np.float32)

    def will_need(self, start: int, stop: int) -> None:
        """Read ahead."""
        self._file.will_need(self._tensor, start, stop)

    def read(self, start: int, stop: int) -> None:
        """Touch the pages."""
        self._file.read(self._tensor, start, stop)

    def release(self, start: int, stop: int) -> None:
        """Let go of the pages."""
        self._file.release(self._tensor, start, stop)


class StackedTensor(TensorSource):
    """A tensor of three dimensions, of which a checkpoint has the `matrices` one by one."""

    def __init__(self, matrices: Sequence[CheckpointTensor], rule: TensorRule) -> None:
        self._matrices = matrices
        self.group = matrices[0].group
        self.info = TensorInfo(rule.name, rule.shape, matrices[0].info.type)

    def floats(self, start: int, stop: int) -> F32:
        """Rows of one matrix, or of several behind each other."""
        parts = [matrix.floats(*rows) for matrix, *rows in self._parts(start, stop)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def will_need(self, start: int, stop: int) -> None:
        """Read ahead."""
        for matrix, first, last in self._parts(start, stop):
            matrix.will_need(first, last)

    def release(self, start: int, stop: int) -> None:
        """Let go of the pages."""
        for matrix, first, last in self._parts(start, stop):
            matrix.release(first, last)

    def _parts(self, start: int, stop: int) -> Iterator[tuple[CheckpointTensor, int, int]]:
        """(matrix, first row, last row) of the matrices these rows lie in."""
        height = self._matrices[0].n_rows
        for number in range(start // height, -(-stop // height)):
            first = number * height
            yield self._matrices[number], max(0, start - first), min(height, stop - first)


class ComputedTensor(TensorSource):
    """A tensor computed from config.json. `values` f32 [n]."""

    def __init__(self, name: str, values: F32) -> None:
        self._values = values
        self.info = TensorInfo(name, values.shape, by_name("F32"))

    def floats(self, start: int, stop: int) -> F32:
        """The values."""
        return self._values.reshape(self.n_rows, -1)[start:stop]


class FileTensor(TensorSource):
    """A tensor of a GGUF file."""

    has_stored = True

    def __init__(self, file: MappedFile, tensor: Tensor) -> None:
        self._file = file
        self._offset_bytes = tensor.offset_bytes
        self.info = TensorInfo(tensor.name, tensor.shape, tensor.type)

    def floats(self, start: int, stop: int) -> F32:
        """Dequantized rows."""
        return self.info.type.dequantize(self.stored(start, stop))

    def stored(self, start: int, stop: int) -> U8:
        """The bytes of the file."""
        first, nbytes = self._range(start, stop)
        return self._file.view(first, nbytes).reshape(stop - start, -1)

    def will_need(self, start: int, stop: int) -> None:
        """Read ahead."""
        self._file.will_need(*self._range(start, stop))

    def read(self, start: int, stop: int) -> None:
        """Touch the pages."""
        self._file.read(*self._range(start, stop))

    def release(self, start: int, stop: int) -> None:
        """Let go of the pages."""
        self._file.release(*self._range(start, stop))

    def _range(self, start: int, stop: int) -> tuple[int, int]:
        row_bytes = self.info.row_bytes
        return self._offset_bytes + start * row_bytes, (stop - start) * row_bytes


@dataclass
class Source:
    """What is converted: metadata and tensors as GGUF has them.

    `files` are all files read, which the output must not replace. `notes` say what the user
    should know. `is_checkpoint`: float tensors that no rule touches become F32.
    """

    metadata: Metadata
    tensors: list[TensorSource]
    files: list[Path]
    notes: list[str] = field(default_factory=list)
    is_checkpoint: bool = False
