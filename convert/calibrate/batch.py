"""Some sequences on their way through a section of a model: values, gradients, who watches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]  # f32; f64 where tests compare with finite differences
Indices = npt.NDArray[np.int64]


@dataclass(eq=False)
class Rows:
    """The name of a value [tokens, cols]; `version` counts what was added to it so far."""

    cols: int
    version: int = 0


class Watch:
    """Learns what reaches the matrices; this one looks away.

    `tokens`: which of the batch's; None: all of them.
    """

    def inputs(
        self, tensor: str, x: Array, tokens: Indices | None = None, expert: int | None = None
    ) -> None:
        """x [n, C] is about to be multiplied by the matrix, the first of those that share x."""

    def outputs(
        self, tensor: str, x: Array, squares: Array, sampled: Array,
        gradients: Array | None = None, tokens: Indices | None = None, expert: int | None = None,
    ) -> None:  # fmt: skip
        """Inputs x [n, C] of a matrix and the `gradients` [n, R] at its outputs.

        `squares` [n]: the mean of their squares; `sampled`: the rows of sampled tokens. The head
        has no other rows: all of them would not fit.
        """


@dataclass
class Batch:
    """`tokens` i32 [sequences, positions] flattened to rows; `weights`: what the section reads.

    `values`, `gradients`: [tokens, cols] by name. `saved`: what an operation needs for its way
    back, by the operation. `sampled`: ascending indices of tokens whose gradients are kept.
    """

    tokens: npt.NDArray[np.int32]
    weights: Mapping[str, Array]
    watch: Watch = field(default_factory=Watch)
    values: dict[Rows, Array] = field(default_factory=dict)
    gradients: dict[Rows, Array] = field(default_factory=dict)
    saved: dict[Any, Any] = field(default_factory=dict)
    sampled: Indices = field(default_factory=lambda: np.empty(0, np.int64))
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    @property
    def positions(self) -> int:
        """Tokens of one sequence."""
        return int(self.tokens.shape[1])

    def add_value(self, rows: Rows, x: Array) -> None:
        """Add x to a value; arrays that others hold stay as they are."""
        self.values[rows] = self.values[rows] + x

    def add_gradient(self, rows: Rows, x: Array) -> None:
        """Add x to the gradient of a value."""
        known = self.gradients.get(rows)
        self.gradients[rows] = x if known is None else known + x


class Operation:
    """One step. `tensors` are the names it reads; `reads` and `writes` the values."""

    tensors: tuple[str, ...] = ()
    reads: tuple[Rows, ...] = ()
    writes: tuple[Rows, ...] = ()

    def forward(self, batch: Batch) -> None:
        """Make the values written from those read."""
        raise NotImplementedError

    def backward(self, batch: Batch) -> None:
        """Make the gradients of values read from those written; after `forward`."""
        raise NotImplementedError
