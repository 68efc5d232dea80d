"""What a method is, and what it is given about a tensor."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from ggq.blocks import BlockType
from ggq.convert.methods._metric import Metric
from ggq.convert.methods._row_metric import RowMetric
from ggq.errors import QuantizeError

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]


class Needs(IntEnum):
    """How much a method must know of a tensor's inputs; more needs a longer calibration."""

    NOTHING = 0
    SQUARES = 1
    HESSIAN = 2
    GRADIENTS = 3


class Statistics(Protocol):
    """What calibration found out about a tensor's inputs x f32[C].

    `square` f32[C]: mean x^2. `gram` f32[C, C]: mean x x^T without first positions, `first` theirs,
    capped; `guided` and `guided_first` the same, every token weighted by its gradients. `outputs`
    f32[n, n] each: diagonal blocks of the mean g g^T of the gradients g f32[R] at its outputs.
    """

    @property
    def square(self) -> F32: ...
    @property
    def gram(self) -> F32: ...
    @property
    def first(self) -> F32: ...
    @property
    def guided(self) -> F32 | None: ...
    @property
    def guided_first(self) -> F32 | None: ...
    @property
    def outputs(self) -> tuple[F32, ...]: ...


@dataclass(frozen=True)
class Options:
    """Choices of a run. `damping` None: by the type's bits; `sweeps` of coordinate descent."""

    damping: float | None = None
    sweeps: int = 3


@dataclass(frozen=True)
class Prepared:
    """What a method, and every simpler one, needs of a tensor.

    `importance` f32[C]: how much a column counts; H's diagonal where there is an H. `rows`: how
    much errors of rows count together.
    """

    options: Options
    importance: F32 | None = None
    metric: Metric | None = None
    rows: RowMetric | None = None


class Method(ABC):
    """One way of quantizing. A subclass gives the class attributes.

    `simpler`: the method that stands in for types this one does not cover. `whole`: rows of a
    matrix help each other, so that it should be given whole; of a slice each row is for itself.
    """

    name: ClassVar[str]
    needs: ClassVar[Needs]
    simpler: ClassVar[str | None] = "llama"
    whole: ClassVar[bool] = False

    @abstractmethod
    def covers(self, type: BlockType) -> bool:
        """Whether it can write this type."""

    def prepare(self, stats: Statistics | None, options: Options | None = None) -> Prepared:
        """What `quantize` needs of a tensor's statistics; for all types, and all rows.

        Raises QuantizeError where the statistics lack what the method needs.
        """
        options = options or Options()
        if self.needs > Needs.NOTHING and stats is None:
            raise QuantizeError(
                f"method {self.name} needs calibration data; give --calib, or take method hqq"
            )
        return self._prepare(stats, options)

    def _prepare(self, stats: Statistics | None, options: Options) -> Prepared:
        return Prepared(options, None if stats is None else stats.square)

    @abstractmethod
    def quantize(self, w: F32, type: BlockType, prepared: Prepared, *, threads: int = 0) -> U8:
        """f32[R, C] -> u8[R, row_bytes]; any slice of a tensor's rows gives that slice's bytes,
        unless the method is `whole`.

        `threads` 0: all cores; the result does not depend on it. Raises QuantizeError for weights
        no finite scale can hold, with row and column.
        """
