"""What an architecture is: hyper-parameters, a tensor table, the way to and from config.json.

An architecture file subclasses `Arch`. Names and shapes: llama.cpp src/models/*.cpp and
gguf-py/gguf/tensor_mapping.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from ggq.errors import FormatError
from ggq.spec import ValueType

if TYPE_CHECKING:
    from ggq.runtime.graph import Graph

Array = npt.NDArray[Any]
Entry = tuple[str, ValueType, Any]


@dataclass(frozen=True)
class RopeScaling:
    """How positions beyond the trained context are squeezed; `kind` is none, linear or yarn.

    Sine and cosine are multiplied by `attn_factor`. The last four fields are for yarn.
    """

    kind: str = "none"
    factor: float = 1.0
    attn_factor: float = 1.0
    original_context: int = 0
    ext_factor: float = 1.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0


@dataclass(frozen=True)
class HParams:
    """The checked numbers of a model. An architecture with more of them subclasses this."""

    n_layer: int
    n_embd: int
    n_ff: int
    n_head: int
    n_head_kv: int
    head_dim: int
    n_vocab: int
    n_ctx: int
    rms_eps: float
    rope_base: float
    rope_dim: int
    rope_scaling: RopeScaling
    attention_scale: float


class Transform:
    """A change between the layout of a checkpoint and the layout of GGUF, and its inverse.

    Works on any run of whole groups of `rows` rows, so a tensor can be changed piece by piece.
    """

    rows: int = 1

    def to_gguf(self, array: Array) -> Array:
        """[R, ...] any dtype -> the same, as GGUF stores it; R is a multiple of `rows`."""
        raise NotImplementedError

    def to_hf(self, array: Array) -> Array:
        """[R, ...] any dtype -> the same, as a checkpoint stores it; R is a multiple of `rows`."""
        raise NotImplementedError


class PermuteRope(Transform):
    """Rows of one attention head: checkpoint halves (x1 | x2) <-> GGUF pairs (x1[i], x2[i])."""

    def __init__(self, head_dim: int) -> None:
        self.rows = head_dim

    def to_gguf(self, array: Array) -> Array:
        """[H * head_dim, ...] halves -> pairs; moves whole rows, values untouched."""
        heads = array.reshape(-1, 2, self.rows // 2, *array.shape[1:])
        return heads.swapaxes(1, 2).reshape(array.shape)

    def to_hf(self, array: Array) -> Array:
        """[H * head_dim, ...] pairs -> halves."""
        heads = array.reshape(-1, self.rows // 2, 2, *array.shape[1:])
        return heads.swapaxes(1, 2).reshape(array.shape)


class PlusOne(Transform):
    """A norm that multiplies by 1 + w in the checkpoint and by w in GGUF."""

    def to_gguf(self, array: Array) -> Array:
        """[...] float -> w + 1 in the same precision."""
        return np.asarray(array + array.dtype.type(1))

    def to_hf(self, array: Array) -> Array:
        """[...] float -> w - 1 in the same precision."""
        return np.asarray(array - array.dtype.type(1))


@dataclass(frozen=True)
class TensorRule:
    """One tensor of a model.

    `shape` is in numpy order. `source` is the name in a checkpoint, or None when the values are
    computed from config.json; with "{}" in it, the tensor is a stack whose matrices a checkpoint
    has one by one, numbered from 0. `role` is the name without "blk.N." and suffix, `layer` is N.
    """

    name: str
    source: str | None
    shape: tuple[int, ...]
    transform: Transform | None = None
    optional: bool = False
    role: str = ""
    layer: int | None = None

    @property
    def sources(self) -> list[str]:
        """Names in a checkpoint: one, or one for each matrix of a stack, or none."""
        if self.source is None:
            return []
        count = self.shape[0] if self.is_stack else 1
        return [self.source.format(number) for number in range(count)]

    @property
    def is_stack(self) -> bool:
        """Whether a checkpoint has the matrices one by one."""
        return self.source is not None and "{}" in self.source

    @property
    def source_shape(self) -> tuple[int, ...]:
        """Shape of each tensor of `sources`."""
        return self.shape[1:] if self.is_stack else self.shape


class Arch:
    """One architecture. A subclass in an architecture file registers itself by being there."""

    name: ClassVar[str]
    hf: ClassVar[tuple[str, ...]]

    def metadata(self, config: dict[str, Any]) -> list[Entry]:
        """config.json -> (key, type, value) of every "{name}." key, in llama.cpp's order.

        Raises UnsupportedModelError on a value the architecture does not implement.
        """
        raise NotImplementedError

    def notes(self, config: dict[str, Any]) -> list[str]:
        """What the user should know about values of config.json that GGUF cannot hold."""
        return []

    def config(
        self, metadata: Mapping[str, Any], rope_factors: Array | None = None
    ) -> dict[str, Any]:
        """GGUF metadata (and rope_freqs.weight, if there) -> the config.json it stands for."""
        raise NotImplementedError

    def hparams(self, metadata: Mapping[str, Any]) -> HParams:
        """GGUF metadata -> checked hyper-parameters. Raises FormatError where the file lies."""
        raise NotImplementedError

    def tensors(self, h: HParams) -> list[TensorRule]:
        """Every tensor the model has, optional ones included."""
        raise NotImplementedError

    def forward(self, g: Graph, h: Any) -> None:
        """Build the forward pass out of the graph's operations."""
        raise NotImplementedError

    def extra_tensors(self, config: dict[str, Any]) -> list[tuple[str, npt.NDArray[np.float32]]]:
        """(name, f32 values) of the tensors computed from config.json."""
        return []


def check_tensors(
    rules: Sequence[TensorRule], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, TensorRule]:
    """Rules by tensor name, for exactly the tensors of a file. `shapes` are in numpy order.

    Raises FormatError for a missing, misshapen or unknown tensor.
    """
    known = {rule.name: rule for rule in rules}
    for name, rule in known.items():
        if name not in shapes:
            if not rule.optional:
                raise FormatError(f"tensor {name} of shape {list(rule.shape)} is missing")
        elif tuple(shapes[name]) != rule.shape:
            raise FormatError(
                f"tensor {name} has shape {list(shapes[name])}, "
                f"but the metadata asks for {list(rule.shape)}"
            )
    for name in shapes:
        if name not in known:
            raise FormatError(f"tensor {name} has no place in this architecture")
    return {name: known[name] for name in shapes}
