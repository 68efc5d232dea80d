"""Importance matrices: mean squared activations per column, in both formats of llama.cpp.

GGUF: for each tensor T, `T.in_sum2` F32 [matrices, columns] and `T.counts` F32 [matrices].
Legacy .dat: i32 entries, each i32 length, name, i32 calls, i32 values, f32 values; at the end i32
chunks, i32 length, dataset name.
Facts: llama.cpp common/imatrix-loader.cpp, tools/imatrix/imatrix.cpp, tools/quantize/quantize.cpp.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ggq.atomic import PendingFile, check_target
from ggq.blocks import by_name
from ggq.cursor import Cursor
from ggq.errors import ImatrixError
from ggq.metadata import Metadata
from ggq.reader import Reader, Tensor
from ggq.spec import MAGIC, TensorInfo, ValueType
from ggq.strings import decode_text
from ggq.writer import Writer

F32 = npt.NDArray[np.float32]

DATASETS = "imatrix.datasets"
CHUNK_COUNT = "imatrix.chunk_count"
CHUNK_SIZE = "imatrix.chunk_size"
SUMS, COUNTS = ".in_sum2", ".counts"
NOT_CHECKED = ("token_embd.weight", "per_layer_token_embd.weight")


@dataclass(frozen=True)
class Imatrix:
    """One file: tensor name -> importance of every column of every matrix, flat."""

    path: str
    values: Mapping[str, F32]
    datasets: Sequence[str]
    chunk_count: int

    def importance(self, tensor: TensorInfo) -> F32 | None:
        """f32 [matrices, columns] for a tensor, None when the file has nothing for it.

        Raises ImatrixError when the entry has another size, that is, belongs to another model;
        an embedding is then left without, as llama-quantize does.
        """
        values = self.values.get(tensor.name)
        if values is None:
            return None
        columns = tensor.shape[-1]
        matrices = tensor.shape[-3] if len(tensor.shape) > 2 else 1
        if values.size == matrices * columns:
            return values.reshape(matrices, columns)
        if tensor.name in NOT_CHECKED:
            return None
        raise ImatrixError(
            f"{self.path}: the entry of {tensor.name} has {values.size} values, but the tensor has"
            f" {matrices} x {columns} columns; this imatrix was made for another model"
        )


def read_imatrix(path: str | os.PathLike[str]) -> Imatrix:
    """Read either format. Raises ImatrixError, FormatError, OSError."""
    with open(path, "rb") as file:
        legacy = file.read(len(MAGIC)) != MAGIC
    imatrix = _read_legacy(path) if legacy else _read_gguf(path)
    if not imatrix.values:
        raise ImatrixError(f"{path}: is no imatrix: none of its tensors ends in {SUMS}")
    for name, values in imatrix.values.items():
        if not np.isfinite(values).all():
            at = int(np.flatnonzero(~np.isfinite(values))[0])
            raise ImatrixError(f"{path}: the entry of {name} has {values[at]} at column {at}")
    return imatrix


def write_imatrix(
    path: str | os.PathLike[str],
    entries: Mapping[str, tuple[F32, F32]],
    *,
    datasets: Sequence[str] = (),
    chunk_count: int,
    chunk_size: int,
) -> None:
    """Write either format, as llama-imatrix does: the legacy one where `path` ends in .dat.

    `entries`: name -> sums f32 [matrices, columns] and counts [matrices] of tokens; `chunk_size` is
    how many tokens a chunk has, `chunk_count` how many chunks there were.
    """
    if os.fspath(path).endswith(".dat"):
        _write_legacy(Path(path), entries, datasets, chunk_count, chunk_size)
        return
    metadata = Metadata()
    metadata.set("general.type", "imatrix", ValueType.STRING)
    metadata.set(DATASETS, list(datasets), ValueType.ARRAY, ValueType.STRING)
    metadata.set(CHUNK_COUNT, chunk_count, ValueType.U32)
    metadata.set(CHUNK_SIZE, chunk_size, ValueType.U32)
    parts = {}
    for name, (sums, counts) in sorted(entries.items()):
        parts[name + SUMS] = sums
        parts[name + COUNTS] = counts.reshape(-1, 1)
    infos = [TensorInfo(name, x.shape, by_name("F32")) for name, x in parts.items()]
    with Writer(path, metadata, infos) as writer:
        for name, x in parts.items():
            writer.write(name, np.ascontiguousarray(x, np.float32).data)


def _write_legacy(
    path: Path, entries: Mapping[str, tuple[F32, F32]], datasets: Sequence[str],
    chunk_count: int, chunk_size: int,
) -> None:  # fmt: skip
    """Sums stand for as many calls as there were chunks; matrices never called get ones."""
    called = {name: x for name, x in sorted(entries.items()) if x[1].any()}
    parts = [_int32(len(called))]
    for name, (sums, counts) in called.items():
        calls = -(-int(counts.max()) // chunk_size)
        means = np.ones_like(sums)
        np.divide(sums, counts[:, None], out=means, where=counts[:, None] > 0)
        values = (means * np.float32(calls)).astype("<f4")
        key = name.encode()
        parts += [_int32(len(key)), key, _int32(calls), _int32(values.size), values.tobytes()]
    dataset = datasets[-1].encode() if datasets else b""
    parts += [_int32(chunk_count), _int32(len(dataset)), dataset]
    check_target(path)
    pending = PendingFile(path)
    try:
        pending.write(memoryview(b"".join(parts)))
        pending.sync()
        pending.publish()
    finally:
        pending.discard()


def _int32(value: int) -> bytes:
    return value.to_bytes(4, "little", signed=True)


def _read_gguf(path: str | os.PathLike[str]) -> Imatrix:
    with Reader(path) as reader:
        metadata = reader.metadata
        missing = [key for key in (DATASETS, CHUNK_COUNT, CHUNK_SIZE) if key not in metadata]
        if missing or not reader.tensors:
            lack = f"key {missing[0]}" if missing else "a single tensor"
            raise ImatrixError(
                f"{path}: is no imatrix: it lacks {lack}; make it with llama-imatrix"
            )
        names = sorted({_stem(name) for name in reader.tensors} - {""})
        return Imatrix(
            path=os.fspath(path),
            values={name: _means(reader, name) for name in names},
            datasets=list(metadata[DATASETS]),
            chunk_count=metadata.require(CHUNK_COUNT, int),
        )


def _stem(name: str) -> str:
    for suffix in (SUMS, COUNTS):
        if name.endswith(suffix):
            return name.removesuffix(suffix)
    return ""


def _means(reader: Reader, name: str) -> F32:
    sums = _floats(reader, name + SUMS)
    counts = _floats(reader, name + COUNTS)
    if not counts.size or sums.size % counts.size:
        raise ImatrixError(
            f"{reader.paths[0]}: {name} has {sums.size} sums for {counts.size} counts;"
            " every count is of one matrix, so the sums must be a multiple"
        )
    if not np.isfinite(counts).all():
        raise ImatrixError(f"{reader.paths[0]}: {name}{COUNTS} has {counts.sum()} among its counts")
    per_matrix = sums.reshape(counts.size, -1)
    # In f64, because x + 0.5 is not exact in f32 from 2^23 on.
    calls = np.floor(counts.astype(np.float64) + 0.5).astype(np.float32)[:, None]
    # An expert that was never called tells nothing: all its columns weigh the same.
    with np.errstate(divide="ignore", invalid="ignore"):
        means = np.where(calls > 0, per_matrix / calls, np.float32(1))
    return means.reshape(-1)


def _floats(reader: Reader, name: str) -> F32:
    tensor: Tensor | None = reader.tensors.get(name)
    if tensor is None or tensor.type.name != "F32":
        found = "it is not there" if tensor is None else f"it is {tensor.type}"
        raise ImatrixError(f"{reader.paths[0]}: tensor {name} must be F32, but {found}")
    return np.array(tensor.data).view(np.float32).reshape(-1)


def _read_legacy(path: str | os.PathLike[str]) -> Imatrix:
    cursor = Cursor(memoryview(Path(path).read_bytes()), os.fspath(path))
    entries = _i32(cursor, "the number of entries")
    if not 0 < entries <= cursor.remaining:
        raise ImatrixError(
            f"{path}: is no imatrix: it does not begin with {MAGIC.decode()!r}, and as a legacy"
            f" .dat file it would have {entries:,} entries in {cursor.remaining:,} bytes"
        )
    values = dict(_legacy_entry(cursor, index) for index in range(entries))
    # What follows is optional: files of old tools end here.
    chunks = _i32(cursor, "the chunk count") if cursor.remaining >= 4 else 0
    length = _i32(cursor, "the length of the data set's name") if cursor.remaining >= 4 else 0
    datasets = []
    if 0 < length <= cursor.remaining:
        datasets.append(_c_string(cursor, length, "the data set's name"))
    return Imatrix(os.fspath(path), values, datasets, chunks)


def _legacy_entry(cursor: Cursor, index: int) -> tuple[str, F32]:
    where = f"entry {index}"
    name = _c_string(cursor, _i32(cursor, f"the name length of {where}"), f"the name of {where}")
    calls = np.float32(_i32(cursor, f"the calls of {name}"))
    size = _i32(cursor, f"the number of values of {name}")
    if size < 1:
        raise ImatrixError(f"{cursor.path}: the entry of {name} has {size} values")
    sums: F32 = np.frombuffer(cursor.take(4 * size, f"the values of {name}"), np.float32)
    return name, sums / calls if calls > 0 else sums


def _i32(cursor: Cursor, what: str) -> int:
    return int.from_bytes(cursor.take(4, what), "little", signed=True)


def _c_string(cursor: Cursor, length: int, what: str) -> str:
    if length < 0:
        raise ImatrixError(f"{cursor.path}: {what} would be {length} bytes long")
    return decode_text(bytes(cursor.take(length, what)).split(b"\0")[0])
