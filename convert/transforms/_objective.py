"""What a fold does to the outputs of the matrices that read its channels.

The weights are put on the grid of the type they will have, and the inputs on the eight-bit grid
that llama.cpp and ggq put activations on (one scale for 32 or 256 of them), so the error counts
both. A token far longer than most counts as one of that length: the sink token that begins a text
would hide all others. With gradients, rows count by how much the loss depends on them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ggq.blocks import BlockType
from ggq.convert.calibrate.statistics import TensorStatistics
from ggq.convert.transforms._base import Calibrated, Types
from ggq.convert.transforms._channels import Axis, Part
from ggq.convert.transforms._fold import Change, Fold
from ggq.convert.transforms._weights import Weights
from ggq.errors import ConvertError

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
ROWS = 256  # of each matrix, spread over it
TOKENS = 512
EXPERTS = 4  # of a stack, spread over it
LONGEST = 4.0  # a token counts as at most so many times the median squared length
HEAVIEST = 16.0  # a row counts as at most so many times the mean
HELD_OUT = 3  # every third token decides, the others search
TINY = 1e-30


@dataclass(frozen=True, eq=False)
class Tokens:
    """Inputs x f32 [n, C] of a matrix, the outputs f32 [n, r] they should give, f32 [n] weights."""

    x: F32
    wanted: F32
    weights: F32


@dataclass(frozen=True, eq=False)
class Reader:
    """A matrix that reads a site's channels: some of its rows w [r, C], and tokens.

    `search` with some, decide with those `held_out`. `square` f32 [C] is what its importance matrix
    says; `row_weights` f32 [r].
    """

    tensor: str
    matrix: int
    type: BlockType
    w: F32
    square: F32
    row_weights: F32
    search: Tokens
    held_out: Tokens

    def error(self, fold: Fold, *, held_out: bool = False) -> float:
        """Weighted mean squared error of the outputs, columns folded and all rounded."""
        tokens = self.held_out if held_out else self.search
        change = fold.of(self.tensor, Axis.COLUMNS, self.matrix) or Change()
        square = np.ascontiguousarray(change.of_inputs(self.square, 2), np.float32)
        changed = np.ascontiguousarray(change.apply(self.w), np.float32)
        weights = self.type.dequantize(self.type.quantize(changed, square, threads=1))
        inputs = rounded(change.of_inputs(tokens.x), self.type)
        off = inputs @ weights.T - tokens.wanted
        return float(tokens.weights @ np.square(off) @ self.row_weights) / len(off)


def rounded(x: F32, type: BlockType) -> F32:
    """f32 [n, C] as the activations that weights of `type` are multiplied with."""
    if not is_coarse(type):
        return x
    blocks = x.reshape(-1, 256 if type.weights == 256 else 32)
    scale = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    codes = np.rint(blocks / np.where(scale > 0, scale, np.float32(1)))
    result: F32 = (codes * scale).reshape(x.shape)
    return result


def is_coarse(type: BlockType | None) -> bool:
    """Whether weights of this type are codes of a grid, which meet rounded activations."""
    return type is not None and type.weights > 1


def coarse_parts(parts: Iterable[Part], types: Types) -> list[Part]:
    """The parts that are columns of matrices which will be quantized."""
    return [p for p in parts if p.axis is Axis.COLUMNS and is_coarse(types.get(p.tensor))]


def readers(
    parts: Iterable[Part], weights: Weights, calibration: Calibrated, types: Types
) -> Iterator[Reader]:
    """The matrices of `parts` that will be quantized, a few of every stack.

    Raises ConvertError when the calibration kept no inputs.
    """
    for part in coarse_parts(parts, types):
        for matrix in spread(weights.matrices(part), EXPERTS):
            expert = matrix if weights.is_stack(part.tensor) else None
            stats = calibration.of(part.tensor, expert, guided=False)
            if len(sampled_inputs(part, stats)) >= 2 * HELD_OUT:  # an expert may see hardly any
                yield _reader(part.tensor, matrix, types[part.tensor], stats, weights)


def held_out_costs(
    folds: Sequence[Fold], parts: Iterable[Part], weights: Weights, calibration: Calibrated,
    types: Types,
) -> F64:  # fmt: skip
    """f64 [folds]: what each fold leaves of output error on held-out tokens, over all `parts`."""
    costs = np.zeros(len(folds))
    for reader in readers(parts, weights, calibration, types):
        costs += [reader.error(fold, held_out=True) for fold in folds]
    return costs


def sampled_inputs(part: Part, stats: TensorStatistics) -> F32:
    """f32 [n, C]: inputs of a matrix at sampled tokens. Raises ConvertError for none kept."""
    if stats.inputs is None:
        raise ConvertError(
            f"tensor {part.tensor}: the calibration kept no sampled inputs, which this transform"
            " needs; calibrate with gradients"
        )
    return stats.inputs[:TOKENS].astype(np.float32)


def spread(numbers: Sequence[int], count: int) -> list[int]:
    """At most `count` of the numbers, from all over them."""
    picked = np.linspace(0, len(numbers) - 1, min(count, len(numbers))).round().astype(int)
    return [numbers[index] for index in dict.fromkeys(picked.tolist())]


def _reader(
    tensor: str, matrix: int, type: BlockType, stats: TensorStatistics, weights: Weights
) -> Reader:
    assert stats.inputs is not None
    x = stats.inputs[:TOKENS].astype(np.float32)
    w, numbers = weights.rows(tensor, matrix, ROWS)
    wanted = x @ w.T
    lengths = np.einsum("tc,tc->t", x, x)
    longest = LONGEST * max(float(np.median(lengths)), TINY)
    per_token = np.minimum(1, longest / np.maximum(lengths, TINY)).astype(np.float32)
    if stats.gradients is None:
        total = float(per_token @ np.square(wanted).sum(axis=1)) / len(x)
        per_row: F32 = np.full(len(w), 1 / max(total, TINY), np.float32)
    else:
        squares = np.square(stats.gradients[: len(x), numbers]).mean(axis=0)
        # The rows looked at stand for all, so that the errors of several matrices add up.
        per_row = np.minimum(squares, HEAVIEST * squares.mean()) * stats.gradients.shape[1] / len(w)
    test = np.arange(len(x)) % HELD_OUT == 0
    both = [Tokens(x[some], wanted[some], per_token[some]) for some in (~test, test)]
    return Reader(tensor, matrix, type, w, stats.square.astype(np.float32), per_row, *both)
