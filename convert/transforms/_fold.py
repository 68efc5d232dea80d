"""A fold: factors and orders of rows and columns that leave the function of a model as it is."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from ggq.convert.sources.tensor_source import Source
from ggq.convert.transforms._channels import Axis, Group, Part, Site
from ggq.errors import ConvertError

if TYPE_CHECKING:
    from ggq.convert.calibrate.statistics import TensorStatistics
    from ggq.convert.transforms._base import Calibrated

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]
AnyCalibration = TypeVar("AnyCalibration", bound="Calibrated")
LARGEST_FACTOR = 2.0**20


@dataclass(frozen=True, eq=False)
class Change:
    """Of one axis: what stands at i was at `order[i]`, times `factors[i]`. None: as before."""

    factors: F32 | None = None
    order: I64 | None = None

    def then(self, later: Change) -> Change:
        """Both changes, this one first."""
        factors, order = self.factors, self.order
        if later.order is not None:
            factors = None if factors is None else factors[later.order]
            order = later.order if order is None else order[later.order]
        if later.factors is not None:
            factors = later.factors if factors is None else factors * later.factors
        return Change(factors, order)

    def apply(self, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """[..., n] -> [..., n]: the last axis changed."""
        if self.order is not None:
            x = x[..., self.order]
        return x if self.factors is None else x * self.factors

    def of_inputs(self, x: npt.NDArray[Any], power: int = 1) -> npt.NDArray[Any]:
        """What an input, or a gradient, becomes whose product with the axis stays: [..., n].

        It is in the new order, and divided by the factors to the `power`.
        """
        if self.order is not None:
            x = x[..., self.order]
        return x if self.factors is None else x / self.factors**power


Key = tuple[str, Axis, int | None]  # tensor, axis, matrix of a stack or None for all


@dataclass(frozen=True, eq=False)
class Fold:
    """Changes of tensors that together change nothing a model computes.

    `notes` say in words what was chosen, one line each.
    """

    changes: Mapping[Key, Change] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.changes)

    @property
    def digest(self) -> str:
        """Tells a fold from all others; empty for one that changes nothing."""
        if not self:
            return ""
        digest = hashlib.sha256()
        for key in sorted(self.changes, key=repr):
            change = self.changes[key]
            digest.update(repr(key).encode())
            for values in (change.factors, change.order):
                digest.update(b"none" if values is None else np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()

    def then(self, later: Fold) -> Fold:
        """Both folds as one, this one first."""
        changes = dict(self.changes)
        for key, change in later.changes.items():
            changes[key] = changes[key].then(change) if key in changes else change
        return Fold(changes, (*self.notes, *later.notes))

    def of(self, tensor: str, axis: Axis, matrix: int | None = None) -> Change | None:
        """The change of a tensor's axis, for one matrix of a stack; None: there is none."""
        whole = self.changes.get((tensor, axis, None))
        own = None if matrix is None else self.changes.get((tensor, axis, matrix))
        return whole.then(own) if whole and own else whole or own

    def touches(self, tensor: str) -> bool:
        """Whether anything of this tensor changes."""
        return any(name == tensor for name, _, _ in self.changes)

    def apply(self, source: Source) -> Source:
        """The same model with changed tensors, which are read from `source` some rows at a time.

        Raises ConvertError for a tensor the model has not.
        """
        from ggq.convert.transforms._folded import FoldedTensor

        missing = {name for name, _, _ in self.changes} - {t.info.name for t in source.tensors}
        if missing:
            raise ConvertError(
                f"the transform changes tensor {min(missing)}, which this model has not; "
                "search it anew for this model"
            )
        tensors = [
            FoldedTensor(tensor, self) if self.touches(tensor.info.name) else tensor
            for tensor in source.tensors
        ]
        return replace(source, tensors=tensors)

    def importance(self, tensor: str, values: F32) -> F32:
        """f32 [matrices, C] mean squares of a tensor's inputs -> those of the changed tensor."""
        matrices = []
        for number, row in enumerate(values):
            change = self.of(tensor, Axis.COLUMNS, number)
            matrices.append(row if change is None else change.of_inputs(row, 2))
        return np.stack(matrices).astype(np.float32, copy=False)

    def statistics(
        self, tensor: str, stats: TensorStatistics, expert: int | None = None
    ) -> TensorStatistics:
        """What calibrating the changed model would have found for `tensor`."""
        columns = self.of(tensor, Axis.COLUMNS, expert)
        rows = self.of(tensor, Axis.ROWS, expert)
        fields: dict[str, Any] = {}
        if columns is not None:
            for name in ("mean", "first_rows", "guided_first_rows", "inputs", "embedded_gradients"):
                fields[name] = _maybe(columns.of_inputs, getattr(stats, name))
            fields["square"] = columns.of_inputs(stats.square, 2)
            for name in ("gram", "guided"):
                fields[name] = _maybe(lambda gram: _both_sides(columns, gram), getattr(stats, name))
        if rows is not None:
            fields["gradients"] = _maybe(rows.of_inputs, stats.gradients)
            fields["outputs"] = _blocks(rows, stats.outputs)
        return replace(stats, **fields)

    def calibration(self, calibration: AnyCalibration) -> AnyCalibration:
        """The calibration of the changed model, from that of the model before.

        It can do all the given one can.
        """
        return cast("AnyCalibration", FoldedCalibration(calibration, self))


class FoldedCalibration:
    """A calibration seen through a fold: what the changed matrices would have seen."""

    def __init__(self, calibration: Calibrated, fold: Fold) -> None:
        self._calibration = calibration
        self._fold = fold

    def __getattr__(self, name: str) -> Any:
        """All else that a calibration tells, such as its hash, no fold changes."""
        return getattr(self._calibration, name)

    @property
    def names(self) -> Sequence[str]:
        """The matrices there are statistics of."""
        return self._calibration.names

    @property
    def gradients(self) -> bool:
        """Whether inputs of sampled tokens were kept."""
        return self._calibration.gradients

    def squares(self, name: str) -> tuple[F32, I64]:
        """f32 [matrices, C] mean squares of the inputs, and how many tokens each has had."""
        squares, counts = self._calibration.squares(name)
        return self._fold.importance(name, squares), counts

    def of(
        self, name: str, expert: int | None = None, *, guided: bool = True, samples: bool = True
    ) -> TensorStatistics:
        """Statistics of a matrix, or of one expert's."""
        stats = self._calibration.of(name, expert, guided=guided, samples=samples)
        return self._fold.statistics(name, stats, expert)


def scaled(site: Site, factors: F32) -> Fold:
    """Readers' columns times `factors` f32 [site.width], makers by their inverses.

    Raises ValueError for factors that are not positive, or too far from 1 to be undone.
    """
    sane = np.isfinite(factors) & (factors > 1 / LARGEST_FACTOR) & (factors < LARGEST_FACTOR)
    if factors.shape != (site.width,) or not sane.all():
        raise ValueError(
            f"{site.name}: wanted {site.width} factors above 0 and within 2^20 of 1, got "
            f"{factors.shape} from {np.min(factors)} to {np.max(factors)}"
        )
    factors = factors.astype(np.float32)
    inverses = np.float32(1) / factors
    changes = {_key(part): Change(factors=part.values(factors)) for part in site.readers}
    changes |= {_key(part): Change(factors=part.values(inverses)) for part in site.makers}
    return Fold(changes)


def ordered(group: Group, order: I64) -> Fold:
    """What stands at i comes from `order[i]`, in every part of the group; i64 [group.width].

    Raises ValueError for what is no permutation, or leaves the runs of the group.
    """
    places = np.arange(group.width)
    whole = order.shape == places.shape and np.array_equal(np.sort(order), places)
    if not whole or (order // group.run != places // group.run).any():
        raise ValueError(
            f"{group.name}: wanted an order of {group.width} channels that stay in their runs of "
            f"{group.run}"
        )
    return Fold({_key(part): Change(order=part.order(order)) for part in group.parts})


def _key(part: Part) -> Key:
    return part.tensor, part.axis, part.matrix


def _blocks(rows: Change, blocks: tuple[F32, ...]) -> tuple[F32, ...]:
    """Diagonal blocks of a matrix of rows by rows; none where rows move from block to block."""
    if rows.order is not None and len(blocks) > 1:
        return ()
    starts = np.cumsum([0, *(len(block) for block in blocks)])
    factors = rows.factors
    found = []
    for start, block in zip(starts, blocks, strict=False):
        part = slice(start, start + len(block))
        own = Change(None if factors is None else factors[part], rows.order)
        found.append(_both_sides(own, block))
    return tuple(found)


def _both_sides(columns: Change, gram: F32) -> npt.NDArray[Any]:
    once = columns.of_inputs(gram)
    return columns.of_inputs(np.ascontiguousarray(once.T))


def _maybe(change: Any, x: Any) -> Any:
    return None if x is None else change(x)
