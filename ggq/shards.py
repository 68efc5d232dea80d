"""Models split over several files: names, keys, and the plan of which tensor goes where.

Names are PREFIX-00001-of-00003.gguf; every shard has split.no (u16, from 0), split.count (u16) and
split.tensors.count (i32, of all shards); all other keys are in the first shard only.
Source: llama.cpp tools/gguf-split/gguf-split.cpp, src/llama.cpp llama_split_path.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ggq.errors import DuplicateTensorError, MissingShardError, SplitError, UsageError
from ggq.metadata import Metadata
from ggq.spec import (
    ALIGNMENT_KEY,
    DEFAULT_ALIGNMENT,
    SPLIT_COUNT,
    SPLIT_NO,
    SPLIT_TENSORS,
    TensorInfo,
    ValueType,
    padded,
)

_SHARD_NAME = re.compile(r"(?P<prefix>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
MAX_SHARDS = 0xFFFF


@dataclass(frozen=True)
class Split:
    """When to begin a new shard: before the data of one exceeds `max_bytes` (padding included),
    or after `max_tensors`. `no_tensor_first` leaves the first shard without tensors.
    """

    max_bytes: int | None = None
    max_tensors: int | None = None
    no_tensor_first: bool = False

    def __post_init__(self) -> None:
        for limit in (self.max_bytes, self.max_tensors):
            if limit is not None and limit < 1:
                raise UsageError(f"a shard limit must be at least 1, not {limit}")

    def plan(self, tensors: Sequence[TensorInfo]) -> list[list[TensorInfo]]:
        """The tensors of each shard, in order. A tensor beyond `max_bytes` gets its own shard."""
        shards: list[list[TensorInfo]] = [[], []] if self.no_tensor_first else [[]]
        nbytes = 0
        for tensor in tensors:
            grown = nbytes + padded(tensor.nbytes, DEFAULT_ALIGNMENT)
            if shards[-1] and (
                (self.max_bytes is not None and grown > self.max_bytes)
                or (self.max_tensors is not None and len(shards[-1]) >= self.max_tensors)
            ):
                shards.append([])
                grown = padded(tensor.nbytes, DEFAULT_ALIGNMENT)
            shards[-1].append(tensor)
            nbytes = grown
        if len(shards) > MAX_SHARDS:
            raise UsageError(f"{len(shards):,} shards are too many; {MAX_SHARDS:,} are possible")
        return [shard for i, shard in enumerate(shards) if shard or i == 0]


def shard_name(path: Path, number: int, count: int) -> Path:
    """Path of shard `number` (from 0) of the model `path`, PREFIX.gguf."""
    prefix = path.name.removesuffix(".gguf")
    return path.with_name(f"{prefix}-{number + 1:05d}-of-{count:05d}.gguf")


def shard_metadata(metadata: Metadata, number: int, count: int, n_tensors: int) -> Metadata:
    """The keys of shard `number`: all in the first, only those a file needs in the others."""
    shard = without_split(metadata)
    if number:
        for key in set(shard) - {ALIGNMENT_KEY}:
            shard.pop(key)
    shard.set(SPLIT_NO, number, ValueType.U16)
    shard.set(SPLIT_COUNT, count, ValueType.U16)
    shard.set(SPLIT_TENSORS, n_tensors, ValueType.I32)
    return shard


def without_split(metadata: Metadata) -> Metadata:
    """A copy without the split.* keys."""
    copy = metadata.copy()
    for key in (SPLIT_NO, SPLIT_COUNT, SPLIT_TENSORS):
        if key in copy:
            copy.pop(key)
    return copy


def shard_paths(path: Path, metadata: Metadata) -> list[Path]:
    """All shards of the model that shard `path` belongs to, in order.

    Raises SplitError if the file name does not fit the keys, MissingShardError.
    """
    count = metadata.require(SPLIT_COUNT, int)
    number = metadata.require(SPLIT_NO, int)
    match = _SHARD_NAME.fullmatch(path.name)
    if not match or (int(match["number"]), int(match["count"])) != (number + 1, count):
        raise SplitError(
            f"this is shard {number + 1} of {count}, so the file name must end in"
            f" -{number + 1:05d}-of-{count:05d}.gguf; rename it back",
            path=path,
        )
    paths = [shard_name(path.with_name(match["prefix"]), i, count) for i in range(count)]
    missing = [shard.name for shard in paths if not shard.exists()]
    if missing:
        raise MissingShardError(
            f"{len(missing)} of {count} shards are not beside it: {', '.join(missing[:4])}"
            + (" ..." if len(missing) > 4 else ""),
            path=path,
        )
    return paths


def check_shards(shards: Iterable[tuple[Path, Metadata, list[str]]]) -> None:
    """Check (path, metadata, tensor names) of all shards against each other.

    Raises SplitError, DuplicateTensorError.
    """
    shards = list(shards)
    home: dict[str, Path] = {}
    for number, (path, metadata, names) in enumerate(shards):
        found = (metadata.require(SPLIT_NO, int), metadata.require(SPLIT_COUNT, int))
        if found != (number, len(shards)):
            raise SplitError(
                f"{SPLIT_NO}, {SPLIT_COUNT} are {found}, but {(number, len(shards))} is wanted:"
                " the shard is of another model",
                path=path,
            )
        for name in names:
            if name in home:
                raise DuplicateTensorError(
                    f"tensor {name!r} is also in {home[name].name}", path=path
                )
            home[name] = path
    path, metadata, _ = shards[0]
    announced = metadata.get_int(SPLIT_TENSORS, len(home))
    if announced != len(home):
        raise SplitError(
            f"{SPLIT_TENSORS} is {announced:,}, but the {len(shards)} shards hold {len(home):,}",
            path=path,
        )
