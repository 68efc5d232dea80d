"""An existing GGUF file, whole or in shards, as the source of a conversion."""

from __future__ import annotations

from pathlib import Path

from ggq.convert.sources.mapped import MappedFile
from ggq.convert.sources.tensor_source import FileTensor, Source
from ggq.reader import Reader


def open_gguf(path: Path, *, header_only: bool = False) -> Source:
    """The file at `path`. With `header_only` its tensor data may be absent; it is not read then.

    Raises FormatError, OSError.
    """
    with Reader(path, header_only=header_only) as reader:
        files = {shard: MappedFile(shard) for shard in reader.paths}
        tensors = [FileTensor(files[tensor.path], tensor) for tensor in reader.tensors.values()]
        return Source(reader.metadata, list(tensors), list(reader.paths))
