"""What a run did, for the ggq.* keys of its file and for its report.

Programs that read GGUF pass over keys they do not know.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ggq.metadata import Metadata
from ggq.spec import ValueType

PREFIX = "ggq."


@dataclass(frozen=True)
class TensorAccount:
    """One tensor. Errors are shares of its output's mean square; `sensitivity` is in nats.

    `error_before`: rounded as llama-quantize does, with the same importance; `error_after`: as it
    is in the file; `sensitivity`: predicted KL divergence of the tensor's error alone.
    """

    name: str
    type: str
    rule: str
    nbytes: int
    error_before: float | None = None
    error_after: float | None = None
    sensitivity: float | None = None


@dataclass
class Account:
    """`facts`: name -> what was chosen or measured; text, whole numbers and floats."""

    facts: dict[str, str | int | float] = field(default_factory=dict)
    tensors: list[TensorAccount] = field(default_factory=list)

    def write_keys(self, metadata: Metadata) -> None:
        """Put every fact into the metadata as ggq.NAME."""
        for name, value in self.facts.items():
            key = PREFIX + name
            if key in metadata:
                metadata.pop(key)
            metadata.set(key, value, _type(value))

    def as_json(self) -> dict[str, Any]:
        """One object: the facts, and `tensors`."""
        return {**self.facts, "tensors": [vars(tensor) for tensor in self.tensors]}


def facts_of(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The facts a file's ggq.* keys hold."""
    found: Iterable[tuple[str, Any]] = metadata.items()
    return {key.removeprefix(PREFIX): value for key, value in found if key.startswith(PREFIX)}


def _type(value: str | int | float) -> ValueType:
    if isinstance(value, str):
        return ValueType.STRING
    return ValueType.U32 if isinstance(value, int) else ValueType.F32
