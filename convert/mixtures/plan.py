"""The plan of a conversion: every tensor with its type, the rule that chose it, and its bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ggq.blocks import BlockType
from ggq.convert.imatrix import Imatrix
from ggq.convert.mixtures.model_facts import ModelFacts, order_key
from ggq.convert.mixtures.presets import Preset, is_quantized
from ggq.convert.mixtures.quantizable import dimensions
from ggq.convert.mixtures.recipe import Decision, Options, decide
from ggq.errors import ConvertError, ImatrixNeededError
from ggq.metadata import Metadata
from ggq.spec import TensorInfo


@dataclass(frozen=True)
class PlannedTensor:
    """One tensor of the output. `shape` is rows first; `bytes` are without padding."""

    decision: Decision

    @property
    def name(self) -> str:
        """Name in the file."""
        return self.decision.tensor.name

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows first, as in the output: ggml stores no leading ones."""
        shape = self.decision.tensor.shape
        return shape[len(shape) - dimensions(shape) :]

    @property
    def source_type(self) -> BlockType:
        """Type in the source."""
        return self.decision.tensor.type

    @property
    def type(self) -> BlockType:
        """Type in the output."""
        return self.decision.type

    @property
    def rule(self) -> str:
        """The rule that chose the type."""
        return self.decision.rule

    @property
    def copied(self) -> bool:
        """The bytes of the source go over as they are."""
        return self.type is self.source_type

    @property
    def info(self) -> TensorInfo:
        """What the header of the output says."""
        return TensorInfo(self.name, self.shape, self.type)

    @property
    def bytes(self) -> int:
        """Bytes in the output, without padding."""
        return self.info.nbytes

    @property
    def n_weights(self) -> int:
        """Number of weights."""
        return self.info.n_weights

    @property
    def wanted_bits(self) -> float:
        """Bits the tensor would have, had its shape allowed the wanted type."""
        return self.n_weights * self.decision.wanted.bits_per_weight

    def as_type(self, type: BlockType, rule: str) -> PlannedTensor:
        """The same tensor in another type."""
        return PlannedTensor(replace(self.decision, type=type, wanted=type, rule=rule))


@dataclass(frozen=True)
class Plan:
    """All tensors of the output, in its order."""

    preset: Preset
    tensors: tuple[PlannedTensor, ...]

    @property
    def total_bytes(self) -> int:
        """Bytes of all tensors, without padding and header."""
        return sum(tensor.bytes for tensor in self.tensors)

    @property
    def n_weights(self) -> int:
        """Weights of all tensors."""
        return sum(tensor.n_weights for tensor in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        """Bits of all tensors per weight."""
        return 8 * self.total_bytes / max(1, self.n_weights)

    @property
    def fallen_back(self) -> list[PlannedTensor]:
        """Tensors whose shape did not allow the wanted type."""
        return [tensor for tensor in self.tensors if tensor.decision.fell_back]

    @property
    def needing_imatrix(self) -> list[str]:
        """Names of tensors whose type is useless without an importance matrix."""
        return [tensor.name for tensor in self.tensors if tensor.decision.needs_imatrix]

    def fallback_summary(self) -> str:
        """`N of M tensors, P % of weights, fell back: 4.8 -> 6.2 bits per weight`, or ""."""
        fallen = self.fallen_back
        if not fallen:
            return ""
        share = 100 * sum(tensor.n_weights for tensor in fallen) / self.n_weights
        wanted = sum(tensor.wanted_bits for tensor in self.tensors) / self.n_weights
        return (
            f"{len(fallen)} of {len(self.tensors)} tensors, {share:.0f} % of weights, fell back:"
            f" {wanted:.1f} -> {self.bits_per_weight:.1f} bits per weight"
        )

    def imatrix_warning(self) -> str:
        """One sentence for a dry run when the conversion itself will need an imatrix, else ""."""
        names = self.needing_imatrix
        if not names:
            return ""
        return (
            f"{self.preset.name} needs an importance matrix for {len(names)} of"
            f" {len(self.tensors)} tensors: converting will need --imatrix FILE"
        )

    def require_imatrix(self, imatrix: Imatrix | None) -> None:
        """Raise ImatrixNeededError for a tensor that needs an importance it has not got.

        Also checks the size of every entry that will be used: ImatrixError.
        """
        for tensor in self.tensors:
            lacking = imatrix is None or (
                not tensor.copied and imatrix.importance(tensor.decision.tensor) is None
            )
            if lacking and tensor.decision.needs_imatrix:
                lack = "there is none" if imatrix is None else f"{imatrix.path} has no entry for it"
                raise ImatrixNeededError(
                    f"tensor {tensor.name} is to be {tensor.type}, which is useless without an"
                    f" importance matrix, and {lack}; give --imatrix FILE or a larger --type"
                )

    def refuse_requantizing(self) -> None:
        """Raise ConvertError when a tensor is quantized already and would be so again."""
        for tensor in self.tensors:
            if is_quantized(tensor.source_type) and not tensor.copied:
                raise ConvertError(
                    f"tensor {tensor.name} is {tensor.source_type} already, making it {tensor.type}"
                    " loses quality twice; convert from an F32, F16 or BF16 source, or give"
                    " --allow-requantize"
                )

    def as_json(self) -> dict[str, Any]:
        """One object: `tensors`, `total_bytes`, `bits_per_weight`."""
        return {
            "tensors": [
                {
                    "name": tensor.name,
                    "shape": list(tensor.shape),
                    "source_type": tensor.source_type.name,
                    "type": tensor.type.name,
                    "rule": tensor.rule,
                    "bytes": tensor.bytes,
                }
                for tensor in self.tensors
            ],
            "total_bytes": self.total_bytes,
            "bits_per_weight": self.bits_per_weight,
        }

    def as_table(self) -> str:
        """Lines of aligned columns, one tensor each, and the totals at the end."""
        head = ("name", "shape", "source", "type", "bytes", "rule")
        rows = [head, *(_cells(tensor) for tensor in self.tensors)]
        lines = _aligned(rows, right=(4,))
        lines += ["", f"{self.total_bytes:,} bytes, {self.bits_per_weight:.2f} bits per weight"]
        return "\n".join(lines + [note for note in (self.fallback_summary(),) if note])


def make_plan(
    metadata: Metadata, tensors: Iterable[TensorInfo], preset: Preset, options: Options
) -> Plan:
    """Plan for a source with `metadata` and `tensors`, in llama-quantize's tensor order.

    Raises FormatError for metadata that the recipe cannot use, RecipeError.
    """
    ordered = sorted(tensors, key=lambda tensor: order_key(tensor.name))
    decisions = decide(ModelFacts.of(metadata), ordered, preset, options)
    return Plan(preset, tuple(PlannedTensor(decision) for decision in decisions))


def _cells(tensor: PlannedTensor) -> tuple[str, ...]:
    return (
        tensor.name,
        " x ".join(map(str, tensor.shape)),
        tensor.source_type.name,
        tensor.type.name,
        f"{tensor.bytes:,}",
        tensor.rule,
    )


def _aligned(rows: Sequence[Sequence[str]], right: Sequence[int]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
