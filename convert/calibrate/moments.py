"""Moments of inputs as the files of a calibration hold them, and experts' drawn to their mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
Arrays = Mapping[str, npt.NDArray[Any]]

FIRST_TRACE = 4  # times the trace of all other positions: as much as first positions may have
SHRINKAGE = 0.25  # tokens per column that an expert borrows from the mean of all
MEAN = "mean of experts"


def key_of(tensor: str, expert: int | str | None) -> str:
    """Name of a matrix in the files; `expert` may also be MEAN."""
    return tensor if expert is None else f"{tensor}#{expert}"


@dataclass
class Moments:
    """Of `count` tokens, `later` of which are not the first of their sequence.

    `gram` f32 [C, C] is a mean over those; the Gram matrix of `first_rows` f32 [n, C] is the sum
    over the others divided by `later`. `square` and `mean` f32 [C] are over all.
    """

    count: int
    later: int
    gram: F32
    first_rows: F32
    square: F32
    mean: F32

    def arrays(self, key: str, name: str) -> Iterator[tuple[str, npt.NDArray[Any]]]:
        """(name in the file, values)."""
        yield f"{key}/{name}.count", np.array([self.count, self.later])
        yield f"{key}/{name}.first", self.first_rows
        yield f"{key}/{name}.square", self.square
        yield f"{key}/{name}.mean", self.mean
        yield f"{key}/{name}", self.gram

    @classmethod
    def read(cls, file: Arrays, key: str, name: str) -> Moments:
        """What `arrays` gave to the file; nothing where the key is not there."""
        if f"{key}/{name}" not in file:
            return cls(0, 0, *np.zeros((4, 1), np.float32))
        count, later = file[f"{key}/{name}.count"]
        parts = (file[f"{key}/{name}{part}"] for part in ("", ".first", ".square", ".mean"))
        return cls(int(count), int(later), *parts)

    def limited(self) -> Moments:
        """The same with first rows that do not outweigh all others."""
        trace = float(np.einsum("nc,nc->", self.first_rows, self.first_rows, dtype=np.float64))
        limit = FIRST_TRACE * float(np.trace(self.gram, dtype=np.float64))
        if trace > limit:
            self.first_rows *= np.float32((limit / trace) ** 0.5)
        return self


@dataclass
class Outputs:
    """Second moments of the gradients at a matrix' outputs, over `count` tokens.

    `blocks` f32 [n, n] each: the diagonal blocks of [R, R], one for every so many rows.
    """

    count: int
    blocks: tuple[F32, ...]

    def arrays(self, key: str) -> Iterator[tuple[str, npt.NDArray[Any]]]:
        """(name in the file, values)."""
        yield f"{key}/outputs.count", np.array(self.count)
        for number, block in enumerate(self.blocks):
            yield f"{key}/outputs.{number}", block

    @classmethod
    def read(cls, file: Arrays, key: str) -> Outputs:
        """What `arrays` gave to the file; nothing where the key is not there."""
        blocks: list[F32] = []
        while (name := f"{key}/outputs.{len(blocks)}") in file:
            blocks.append(file[name])
        return cls(int(file[f"{key}/outputs.count"]) if blocks else 0, tuple(blocks))


def read_outputs(file: Arrays, tensor: str, expert: int | None) -> tuple[F32, ...]:
    """Blocks of a matrix; of an expert, drawn to the mean of all experts as its inputs are."""
    own = Outputs.read(file, key_of(tensor, expert))
    if expert is None:
        return own.blocks
    mean = Outputs.read(file, key_of(tensor, MEAN))
    if not own.count:
        return mean.blocks
    borrowed = SHRINKAGE * sum(len(block) for block in own.blocks)
    share = np.float32(own.count / (own.count + borrowed))
    pairs = zip(own.blocks, mean.blocks, strict=True)
    return tuple(share * block + (1 - share) * other for block, other in pairs)


def mean_outputs(all_experts: list[Outputs]) -> Outputs:
    """Of the tokens of all experts together."""
    count = sum(own.count for own in all_experts)
    sums = [np.zeros_like(block) for block in all_experts[0].blocks]
    for own in all_experts:
        for total, block in zip(sums, own.blocks, strict=True):
            total += np.float32(own.count / max(1, count)) * block
    return Outputs(count, tuple(sums))


def read_moments(file: Arrays, tensor: str, expert: int | None, name: str) -> Moments:
    """Moments of a matrix, first rows limited; of an expert, drawn to the mean of all experts.

    With n tokens an expert's become (n own + n0 mean) / (n + n0), n0 = C / 4.
    """
    own = Moments.read(file, key_of(tensor, expert), name)
    if expert is None:
        return own.limited()
    mean = Moments.read(file, key_of(tensor, MEAN), name)
    borrowed = SHRINKAGE * mean.gram.shape[-1]
    share = np.float32(own.later / (own.later + borrowed))
    if not own.count:
        mean.count = mean.later = 0
        return mean.limited()
    rest = 1 - share
    rows = [np.sqrt(share) * own.first_rows, np.sqrt(rest) * mean.first_rows]
    return Moments(
        count=own.count,
        later=own.later,
        gram=share * own.gram + rest * mean.gram,
        first_rows=np.concatenate(rows),
        square=share * own.square + rest * mean.square,
        mean=share * own.mean + rest * mean.mean,
    ).limited()


def mean_moments(all_experts: list[Moments]) -> Moments:
    """Moments of the tokens of all experts together."""
    count, later = (sum(getattr(m, field) for m in all_experts) for field in ("count", "later"))
    gram = np.zeros_like(all_experts[0].gram)
    square, mean = np.zeros_like(all_experts[0].square), np.zeros_like(all_experts[0].mean)
    rows = []
    for own in all_experts:
        gram += np.float32(own.later / max(1, later)) * own.gram
        square += np.float32(own.count / max(1, count)) * own.square
        mean += np.float32(own.count / max(1, count)) * own.mean
        rows.append(np.float32((own.later / max(1, later)) ** 0.5) * own.first_rows)
    return Moments(count, later, gram, np.concatenate(rows), square, mean)
