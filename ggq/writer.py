"""Write a GGUF v3 file, or the shards of one, tensor by tensor.

The header is planned and written first, so one tensor at a time is enough memory. The files get
their names only when all of them are complete.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from ggq.atomic import PendingFile, check_space, check_target, remove_stale_parts, sync_folder
from ggq.clock import Clock
from ggq.errors import DuplicateTensorError, WriteError
from ggq.metadata import Metadata, read_alignment
from ggq.shards import Split, shard_metadata, shard_name, without_split
from ggq.spec import MAGIC, VERSION, TensorInfo, padded
from ggq.tensor_info import encode_info

Chunk = bytes | bytearray | memoryview | npt.NDArray[Any]


@dataclass(frozen=True)
class _Plan:
    """One file to write."""

    path: Path
    header: bytes
    tensors: list[TensorInfo]
    alignment: int

    @property
    def nbytes(self) -> int:
        return len(self.header) + sum(padded(t.nbytes, self.alignment) for t in self.tensors)


class Writer:
    """A GGUF file in the making. A context manager.

    `tensors` gives names, shapes and types in the order of the file; `split` makes shards.
    Inside the block, `write` takes the data of each tensor in that order. On leaving it cleanly
    the files appear under `paths`, replacing older ones; on an error nothing remains.
    Raises FormatError for names, shapes and keys a file cannot hold, UsageError and NotFoundError
    for a path that cannot be written, DiskFullError, OutputBusyError.
    `clock` runs while bytes are on their way to the disk.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        metadata: Metadata,
        tensors: Sequence[TensorInfo],
        *,
        split: Split | None = None,
    ) -> None:
        self._plans = _plans(Path(path), metadata, tensors, split)
        self.clock = Clock()
        self._files: list[PendingFile] = []
        self._steps = self._walk()
        self._tensor: TensorInfo | None = None
        self._missing_bytes = 0

    @property
    def paths(self) -> list[Path]:
        """The files to be, in the order of the shards."""
        return [plan.path for plan in self._plans]

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return sum(plan.nbytes for plan in self._plans)

    def write(self, name: str, chunk: Chunk) -> None:
        """Append `chunk` to the data of tensor `name`, which must be the next incomplete one.

        Raises WriteError for the wrong tensor or too many bytes, DiskFullError.
        """
        view = chunk.data if isinstance(chunk, np.ndarray) else memoryview(chunk)
        if not view.nbytes:
            return
        if self._tensor is None or name != self._tensor.name:
            wanted = "no more" if self._tensor is None else repr(self._tensor.name)
            raise WriteError(f"data of tensor {name!r} is written, but {wanted} is next")
        if view.nbytes > self._missing_bytes:
            raise WriteError(
                f"tensor {name!r} has {self._tensor.nbytes:,} bytes, but"
                f" {view.nbytes - self._missing_bytes:,} more are written"
            )
        self._files[-1].write(view.cast("B"))
        self._missing_bytes -= view.nbytes
        if not self._missing_bytes:
            self._tensor = next(self._steps, None)

    def __enter__(self) -> Writer:
        try:
            folder = self.paths[0].parent
            for path in self.paths:
                check_target(path)
            remove_stale_parts(folder)
            check_space(folder, self.nbytes)
            self._tensor = next(self._steps, None)
        except BaseException:
            self._discard()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self._publish()
        finally:
            self._discard()

    def _walk(self) -> Iterator[TensorInfo]:
        """Open each file, write its header, and stop at each tensor until its data is written."""
        for plan in self._plans:
            file = PendingFile(plan.path, self.clock)
            self._files.append(file)
            file.write(memoryview(plan.header))
            for tensor in plan.tensors:
                self._missing_bytes = tensor.nbytes
                if tensor.nbytes:
                    yield tensor
                    file.write(memoryview(bytes(-tensor.nbytes % plan.alignment)))

    def _publish(self) -> None:
        if self._tensor is not None:
            done = self._tensor.nbytes - self._missing_bytes
            raise WriteError(
                f"tensor {self._tensor.name!r} has {self._tensor.nbytes:,} bytes, but only"
                f" {done:,} were written"
            )
        for file in self._files:
            file.sync()
        first, *others = self._files
        if others:
            # Without its first shard a half-renamed model cannot be mistaken for a whole one.
            first.path.unlink(missing_ok=True)
        try:
            for file in (*others, first):
                file.publish()
        except BaseException:
            for file in self._files:
                file.withdraw()
            raise
        sync_folder(first.path.parent)

    def _discard(self) -> None:
        for file in self._files:
            file.discard()


def _plans(
    path: Path, metadata: Metadata, tensors: Sequence[TensorInfo], split: Split | None
) -> list[_Plan]:
    names: set[str] = set()
    for tensor in tensors:
        if tensor.name in names:
            raise DuplicateTensorError(f"tensor {tensor.name!r} occurs twice", path=path)
        names.add(tensor.name)
    shards = [list(tensors)] if split is None else split.plan(tensors)
    count = len(shards)
    if count == 1:
        return [_plan(path, without_split(metadata), shards[0])]
    return [
        _plan(
            shard_name(path, number, count),
            shard_metadata(metadata, number, count, len(tensors)),
            shard,
        )
        for number, shard in enumerate(shards)
    ]


def _plan(path: Path, metadata: Metadata, tensors: list[TensorInfo]) -> _Plan:
    alignment = read_alignment(metadata)
    parts = [struct.pack("<4sIQQ", MAGIC, VERSION, len(tensors), len(metadata)), metadata.encode()]
    offset = 0
    for tensor in tensors:
        parts.append(encode_info(tensor, offset))
        offset += padded(tensor.nbytes, alignment)
    header = b"".join(parts)
    if tensors:
        header += bytes(-len(header) % alignment)
    return _Plan(path, header, tensors, alignment)
