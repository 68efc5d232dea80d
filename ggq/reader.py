"""Read a GGUF file over one memory map. Nothing is copied, and nothing is believed unchecked.

File: "GGUF", u32 version, u64 tensors, u64 pairs, metadata, tensor infos, padding, data.
Tensor info: name, u32 dims, u64 each dim (weights of a row first), u32 type, u64 offset.
Source: llama.cpp ggml/src/gguf.cpp, src/llama-model-loader.cpp (shards).
"""

from __future__ import annotations

import mmap
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from ggq.cursor import Cursor
from ggq.errors import (
    ByteOrderError,
    DuplicateTensorError,
    FormatError,
    MagicError,
    TensorBoundsError,
    TruncatedError,
    VersionError,
)
from ggq.metadata import Metadata, read_alignment, read_pair_count
from ggq.spec import (
    MAGIC,
    READABLE_VERSIONS,
    SPLIT_COUNT,
    TensorInfo,
    padded,
)
from ggq.tensor_info import MIN_INFO_BYTES, read_info


@dataclass(frozen=True)
class Tensor(TensorInfo):
    """A tensor in a file. `offset_bytes` counts from the start of the file `path`."""

    offset_bytes: int
    path: Path
    _view: memoryview | None = field(repr=False, compare=False)

    @property
    def data(self) -> npt.NDArray[np.uint8]:
        """u8 [..., row_bytes]: the stored bytes, a read-only view of the map.

        Raises TensorBoundsError if the file was opened with `header_only`.
        """
        if self._view is None:
            raise TensorBoundsError(
                f"the data of tensor {self.name!r} is not available: opened with header_only",
                path=self.path,
            )
        flat = np.asarray(self._view[self.offset_bytes : self.offset_bytes + self.nbytes])
        return flat.reshape(*self.shape[:-1], self.row_bytes)

    @property
    def address(self) -> int:
        """Memory address of the first byte; valid while `data` or the Reader lives."""
        return int(self.data.ctypes.data)

    def dequantize(self) -> npt.NDArray[np.float32]:
        """f32 [shape]: the weights."""
        if not self.n_weights:
            return np.zeros(self.shape, np.float32)
        return self.type.dequantize(self.data).reshape(self.shape)

    def release(self) -> None:
        """Drop the pages of this tensor from the process; reading them again brings them back."""
        first = padded(self.offset_bytes, mmap.PAGESIZE)
        last = (self.offset_bytes + self.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
        file = None if self._view is None else self._view.obj
        if isinstance(file, mmap.mmap) and last > first and hasattr(mmap, "MADV_DONTNEED"):
            file.madvise(mmap.MADV_DONTNEED, first, last - first)


class Reader:
    """An open GGUF file, or all shards of one. A context manager.

    `header_only` accepts files whose tensor data is absent (sparse or cut after the header).
    Without `mapped` the files are read into memory as a whole: for disks slower than that memory,
    and for files that may change meanwhile.
    Raises FormatError for every structural fault, OSError if the file cannot be read.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, header_only: bool = False, mapped: bool = True
    ) -> None:
        self._files: list[_File] = []
        self._mapped = mapped
        try:
            first = self._open(Path(path), header_only)
            if first.metadata.get_int(SPLIT_COUNT, 0) > 1:
                self._open_shards(first, header_only)
        except BaseException:
            self.close()
            raise
        self.metadata = self._files[0].metadata
        self.version = self._files[0].version
        self.alignment = self._files[0].alignment
        self.tensors = {name: t for file in self._files for name, t in file.tensors.items()}

    @property
    def paths(self) -> list[Path]:
        """Every file, in the order of the shards."""
        return [file.path for file in self._files]

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return sum(len(file.view) for file in self._files)

    def close(self) -> None:
        """Let go of the map. Views that are still in use keep it alive."""
        for file in self._files:
            file.close()

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _open(self, path: Path, header_only: bool) -> _File:
        file = _File(path, self._mapped)
        self._files.append(file)
        file.parse(header_only)
        return file

    def _open_shards(self, first: _File, header_only: bool) -> None:
        from ggq.shards import check_shards, shard_paths

        paths = shard_paths(first.path, first.metadata)
        self._files.clear()
        for path in paths:
            if path == first.path:
                self._files.append(first)
            else:
                self._open(path, header_only)
        check_shards([(file.path, file.metadata, list(file.tensors)) for file in self._files])


class _File:
    """One file of a model."""

    def __init__(self, path: Path, mapped: bool) -> None:
        self.path = path
        self.map: mmap.mmap | None = None
        self.view = memoryview(b"")
        with open(path, "rb", opener=_open_regular) as stream:
            if not mapped:
                self.view = np.fromfile(stream, np.uint8).data.toreadonly()
            elif os.fstat(stream.fileno()).st_size:
                self.map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
                self.view = memoryview(self.map)

    def close(self) -> None:
        try:
            self.view.release()
            if self.map is not None:
                self.map.close()
        except BufferError:
            pass  # a view is still in use

    def parse(self, header_only: bool) -> None:
        cursor = Cursor(self.view, self.path)
        self.version = _read_version(cursor)
        n_tensors = cursor.count("tensors", MIN_INFO_BYTES)
        self.metadata = Metadata.decode(cursor, read_pair_count(cursor))
        self.alignment = read_alignment(self.metadata)
        infos = [read_info(cursor, f"tensor {i} of {n_tensors}") for i in range(n_tensors)]
        self.tensors = self._place(infos, padded(cursor.position, self.alignment), header_only)

    def _place(
        self, infos: list[tuple[TensorInfo, int]], data_start: int, header_only: bool
    ) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        view = None if header_only else self.view
        expected = 0
        for info, offset in infos:
            if info.name in tensors:
                raise DuplicateTensorError(f"tensor {info.name!r} occurs twice", path=self.path)
            if offset != expected:
                raise TensorBoundsError(
                    f"tensor {info.name!r} has offset {offset:,}, but the tensors before it"
                    f" end at {expected:,}: tensors must follow each other, aligned to"
                    f" {self.alignment}, without gap or overlap",
                    path=self.path,
                )
            expected += padded(info.nbytes, self.alignment)
            tensors[info.name] = Tensor(
                info.name, info.shape, info.type, data_start + offset, self.path, view
            )
        if not header_only:
            self._check_length(tensors)
        return tensors

    def _check_length(self, tensors: dict[str, Tensor]) -> None:
        for tensor in tensors.values():
            end = tensor.offset_bytes + padded(tensor.nbytes, self.alignment)
            if end > len(self.view):
                raise TruncatedError(
                    f"tensor {tensor.name!r} and its padding end at byte {end:,}, but the file has"
                    f" {len(self.view):,}; the download is probably incomplete",
                    path=self.path,
                )


def _open_regular(path: str, flags: int) -> int:
    """Open without waiting on a pipe. Raises FormatError unless `path` is a regular file."""
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FormatError("this is not a regular file; a GGUF file is wanted", path=path)
    return descriptor


def _read_version(cursor: Cursor) -> int:
    magic = bytes(cursor.take(4, "the magic number"))
    if magic != MAGIC:
        raise MagicError(
            f"the file begins with {magic!r}, not {MAGIC!r}: it is not a GGUF file",
            path=cursor.path,
            offset_bytes=0,
        )
    version = cursor.u32("the version")
    if version and version & 0xFFFF == 0:
        raise ByteOrderError(
            "the file is big-endian; only little-endian GGUF is supported",
            path=cursor.path,
            offset_bytes=4,
        )
    if version not in READABLE_VERSIONS:
        raise VersionError(
            f"GGUF version {version} is not supported; versions 2 and 3 are."
            + (" Convert the model again with a current tool." if version == 1 else ""),
            path=cursor.path,
            offset_bytes=4,
        )
    return version
