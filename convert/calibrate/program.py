"""An architecture's forward pass as operations over numpy, cut into sections that run one by one.

`Recorder` has the building methods of the runtime's Graph, so `Arch.forward` writes the program
once for both.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

from ggq.convert.calibrate.attention import Attention, AttentionShape
from ggq.convert.calibrate.batch import Array, Batch, Operation, Rows
from ggq.convert.calibrate.experts import Experts
from ggq.convert.calibrate.head import Head
from ggq.convert.calibrate.operations import (
    GATES,
    Activation,
    AddNorm,
    Embed,
    Gated,
    Linear,
    Norm,
)
from ggq.errors import UnsupportedModelError
from ggq.runtime.arch import Arch, RopeScaling
from ggq.runtime.rope import RopeTable

_LAYER = re.compile(r"blk\.(\d+)\.")


class Recorder:
    """Records a forward pass. `shapes` of the model's tensors; `read(name)` gives one as f32.

    `gates`: the activations by name.
    """

    def __init__(
        self, shapes: Mapping[str, tuple[int, ...]], read: Callable[[str], Array], n_ctx: int,
        gates: Mapping[str, Activation] = GATES,
    ) -> None:  # fmt: skip
        self.operations: list[Operation] = []
        self._gates = gates
        self._shapes, self._read, self._n_ctx = shapes, read, n_ctx
        self._sites: dict[tuple[Rows, int], str] = {}

    def _add(self, operation: Operation) -> None:
        self.operations.append(operation)
        for rows in operation.writes:
            rows.version += 1

    def has(self, name: str) -> bool:
        """Whether the model has an optional tensor."""
        return name in self._shapes

    def rope(self, dims: int, base: float, scaling: RopeScaling, factors: str = "") -> RopeTable:
        """Table of rotary positions; `factors` names a tensor of divisors that may be there."""
        divisors = self._read(factors) if factors and self.has(factors) else None
        return RopeTable(dims, base, self._n_ctx, scaling, divisors)

    def embed(self, name: str, scale: float = 1.0) -> Rows:
        """[T, D]: rows of the table, one per token, times `scale`."""
        out = Rows(self._shapes[name][1])
        self._add(Embed(name, out, scale))
        return out

    def norm(self, x: Rows, name: str, eps: float, *, last: bool = False) -> Rows:
        """[T, D]: RMS norm of every token."""
        out = Rows(x.cols)
        self._add(Norm(x, name, eps, out))
        return out

    def add_norm(self, y: Rows, name: str, eps: float, x: Rows) -> None:
        """x += RMS norm of y."""
        self._add(AddNorm(y, name, eps, x))

    def linear(self, x: Rows, name: str, *, into: Rows | None = None, bias: str = "") -> Rows:
        """[T, R] = x W^T (+ bias); with `into`, added to those rows instead."""
        weight = f"{name}.weight"
        site = self._sites.setdefault((x, x.version), weight)
        out = into or Rows(self._shapes[weight][0])
        bias = bias if self.has(bias) else ""
        self._add(Linear(x, name, out, adds=into is not None, bias=bias, site=site))
        return out

    def attention(
        self, q: Rows, k: Rows, v: Rows, layer: int, *, heads_q: int, heads_kv: int, dims: int,
        rope: RopeTable, neox: bool, scale: float, window: int = 0, softcap: float = 0.0,
        eps: float = 0.0, q_norm: str = "", k_norm: str = "",
    ) -> Rows:  # fmt: skip
        """[T, H * Dh]: norms of heads, rotary positions, causal attention."""
        out = Rows(heads_q * dims)
        shape = AttentionShape(heads_q, heads_kv, dims, neox, scale, window, softcap, eps)
        rope.fill(self._n_ctx)
        self._add(Attention(q, k, v, out, shape, rope.values, q_norm, k_norm))
        return out

    def gated(self, kind: str, gate: Rows, up: Rows) -> Rows:
        """[T, F] = f(gate) * up. Raises UnsupportedModelError for an f without derivative here."""
        if kind not in self._gates:
            raise UnsupportedModelError(
                f"activation {kind!r} cannot be calibrated; known: {', '.join(self._gates)}"
            )
        out = Rows(gate.cols)
        self._add(Gated(self._gates[kind], gate, up, out))
        return out

    def experts(self, x: Rows, name: str, used: int, *, into: Rows) -> None:
        """Add what the `used` experts that the router picks make of each token."""
        router = self.linear(x, f"{name}_gate_inp")
        self._add(Experts(x, router, name, used, into))

    def output(self, x: Rows, name: str, softcap: float = 0.0) -> None:
        """Logits of x; with `softcap` c, c tanh(logit / c) instead."""
        self._add(Head(x, name, Rows(self._shapes[f"{name}.weight"][0]), softcap))


@dataclass(frozen=True)
class Section:
    """Operations that run together: the embedding, a layer, or the head.

    One value enters and one leaves, but for the embedding, which begins with the tokens, and the
    head, which ends with logits.
    """

    name: str
    operations: Sequence[Operation]
    enters: Rows | None
    leaves: Rows | None

    @property
    def tensors(self) -> list[str]:
        """Every tensor it reads, each once."""
        return list(dict.fromkeys(name for op in self.operations for name in op.tensors))

    def forward(self, batch: Batch, x: Array | None) -> Array | None:
        """What leaves, [tokens, cols], from what enters."""
        if self.enters is not None:
            assert x is not None
            batch.values[self.enters] = x
        for operation in self.operations:
            operation.forward(batch)
        return None if self.leaves is None else batch.values[self.leaves]

    def backward(self, batch: Batch, gradient: Array | None) -> Array:
        """Gradient of what entered, from that of what left; after `forward` of the same batch."""
        if self.leaves is not None:
            assert gradient is not None
            batch.gradients[self.leaves] = gradient
        for operation in reversed(self.operations):
            operation.backward(batch)
        assert self.enters is not None
        return batch.gradients.pop(self.enters)


@dataclass(frozen=True)
class Program:
    """A whole model, in the order it runs."""

    sections: Sequence[Section]

    @property
    def operations(self) -> Iterator[Operation]:
        """All of them."""
        return (operation for section in self.sections for operation in section.operations)

    @cached_property
    def matrices(self) -> dict[str, str]:
        """Matrix -> its site, the first matrix with the same input."""
        sites = {}
        for op in self.operations:
            if isinstance(op, Linear):
                sites[op.weight] = op.site
            elif isinstance(op, Head):
                sites[op.weight] = op.weight
            elif isinstance(op, Experts):
                sites |= {op.gate: op.gate, op.up: op.gate, op.down: op.down}
        return sites


def record(
    arch: Arch, h: Any, shapes: Mapping[str, tuple[int, ...]], read: Callable[[str], Array],
    n_ctx: int, gates: Mapping[str, Activation] = GATES,
) -> Program:  # fmt: skip
    """The program of a model for texts of up to `n_ctx` tokens, with these activations.

    Raises UnsupportedModelError where more than one value goes from a layer to the next.
    """
    recorder: Any = Recorder(shapes, read, n_ctx, gates)
    arch.forward(recorder, h)
    groups = [list(group) for _, group in groupby(_numbered(recorder.operations), lambda x: x[0])]
    sections = []
    for index, group in enumerate(groups):
        own = [operation for _, operation in group]
        later = [operation for rest in groups[index + 1 :] for _, operation in rest]
        before = [operation for rest in groups[:index] for _, operation in rest]
        enters, leaves = _crossing(before, [*own, *later]), _crossing([*before, *own], later)
        sections.append(Section(group[0][0], own, enters, leaves))
    return Program(sections)


def _numbered(operations: Sequence[Operation]) -> list[tuple[str, Operation]]:
    """Every operation with the section it belongs to; those without tensors, to the last one's."""
    section, found = "embedding", []
    for operation in operations:
        for name in operation.tensors:
            layer = _LAYER.match(name)
            if layer:
                section = f"layer {layer[1]}"
            elif not isinstance(operation, Embed):
                section = "head"
        found.append((section, operation))
    return found


def _crossing(before: Sequence[Operation], after: Sequence[Operation]) -> Rows | None:
    """The value that is made before and needed after."""
    made = {rows for operation in before for rows in operation.writes}
    needed = {rows for operation in after for rows in operation.reads} & made
    if len(needed) > 1:
        raise UnsupportedModelError(
            f"{len(needed)} values go from one layer to the next; calibration can carry one"
        )
    return needed.pop() if needed else None
