"""Channels that tensors share: what may be scaled or reordered in all of them at once.

Both leave the function of a model as it is. A channel of a norm's output, of a value or of a gated
hidden layer may be made smaller by what makes it and the columns that read it larger by as much.
And channels may change places, in everything that makes or reads them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

import numpy as np
import numpy.typing as npt

I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]


class Axis(Enum):
    """Along what a tensor holds channels. The numbers of a vector are its columns."""

    ROWS = "rows"
    COLUMNS = "columns"


@dataclass(frozen=True)
class Part:
    """The channels as the rows or columns of a tensor, or of one `matrix` of a stack.

    They lie there in runs of `run` (0: one run), each run `copies` times: so the columns of
    attn_output hold the channels of a value head once for each query head that reads it.
    """

    tensor: str
    axis: Axis
    run: int = 0
    copies: int = 1
    matrix: int | None = None

    def values(self, of_channels: F32) -> F32:
        """[width] numbers of channels -> [width * copies], one for each row or column."""
        runs = of_channels.reshape(-1, self.run or of_channels.size)
        return runs.repeat(self.copies, axis=0).reshape(-1)

    def order(self, of_channels: I64) -> I64:
        """i64 [width] order of channels -> [width * copies], the order of rows or columns."""
        run = self.run or of_channels.size
        runs = of_channels.reshape(-1, 1, run)
        if self.copies == 1:
            return of_channels
        within = runs - np.arange(len(runs))[:, None, None] * run
        first = np.arange(len(runs) * self.copies).reshape(-1, self.copies, 1) * run
        return (within + first).reshape(-1)

    def folded(self, of_columns: F32) -> F32:
        """f32 [width * copies], one for each row or column -> f32 [width], copies summed."""
        total: F32 = self._runs(of_columns).sum(axis=1).reshape(-1)
        return total

    def peaks(self, of_columns: F32) -> F32:
        """f32 [width * copies], one for each row or column -> f32 [width], the largest copy."""
        largest: F32 = self._runs(of_columns).max(axis=1).reshape(-1)
        return largest

    def _runs(self, of_columns: F32) -> F32:
        run = self.run or of_columns.size // self.copies
        return of_columns.reshape(-1, self.copies, run)


@dataclass
class Site:
    """Channels that may be scaled: `makers` by 1 / s, `readers` by s. `width` of them."""

    name: str
    width: int
    makers: list[Part] = field(default_factory=list)
    readers: list[Part] = field(default_factory=list)
    fixed: bool = False


@dataclass
class Group:
    """Channels that may change places, in all `parts`, but only within runs of `run`."""

    name: str
    width: int
    run: int
    parts: list[Part] = field(default_factory=list)
    fixed: bool = False

    @property
    def readers(self) -> list[Part]:
        """The parts in which the channels lie along the rows' blocks: the columns of matrices."""
        return [part for part in self.parts if part.axis is Axis.COLUMNS]


@dataclass(frozen=True)
class Channels:
    """All channels of a model that may be scaled or may change places."""

    sites: tuple[Site, ...]
    groups: tuple[Group, ...]
