"""What the mixture must know of a model, and the order of its tensors.

Facts: llama.cpp src/llama-model.cpp `load_hparams`, src/models/*.cpp (layer counts, which models
count as 70B) and src/llama-model-loader.h `weight_name_comparer`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ggq.metadata import Metadata

LAYERS_OF_70B = {"llama": 80, "llama-embed": 80, "deci": 80, "qwen2": 80, "olmo": 80, "jais2": 68}
_LAYER = re.compile(r"blk\.\s*([+-]?[0-9]+)")


@dataclass(frozen=True)
class ModelFacts:
    """Layer counts include the layers that predict further tokens; head counts are of layer 0."""

    architecture: str
    n_layer: int
    n_layer_mtp: int = 0
    n_expert: int = 0
    n_head: int = 0
    n_head_kv: int = 0

    @property
    def queries_per_kv(self) -> int:
        """Query heads per key/value head, 0 in a layer without attention."""
        return self.n_head // self.n_head_kv if self.n_head_kv else 0

    @property
    def is_70b(self) -> bool:
        """A model whose attn_v is so small beside the rest that it always gets 5 bits."""
        if self.n_layer - self.n_layer_mtp != LAYERS_OF_70B.get(self.architecture):
            return False
        return not self.architecture.startswith("llama") or self.n_head != self.n_head_kv

    @classmethod
    def of(cls, metadata: Metadata) -> ModelFacts:
        """Facts of a model by its metadata. Raises FormatError when a key is missing or odd."""
        name = metadata.require("general.architecture", str)
        if name == "clip":  # a projector: it has encoders, but no layers of its own
            return cls(name, 0)
        layers = metadata.require(f"{name}.block_count", int)
        mtp = metadata.get_int(f"{name}.nextn_predict_layers", 0)
        if name == "nanbeige":
            layers *= max(1, metadata.get_int(f"{name}.num_loops", 1))
        if name == "graniteswitch":
            layers, mtp = layers + 1, 1
        heads = _of_first_layer(metadata, f"{name}.attention.head_count", 0)
        return cls(
            architecture=name,
            n_layer=layers,
            n_layer_mtp=mtp,
            n_expert=metadata.get_int(f"{name}.expert_count", 0),
            n_head=heads,
            n_head_kv=_of_first_layer(metadata, f"{name}.attention.head_count_kv", heads),
        )


def layer_of(name: str) -> int:
    """N of a tensor "blk.N...", -1 for one outside the layers."""
    found = _LAYER.match(name)
    return int(found[1]) if found else -1


def order_key(name: str) -> tuple[int, bytes]:
    """Sort key of llama-quantize's tensor order: outside the layers first, then by layer, name."""
    return layer_of(name), name.encode("utf-8", "surrogateescape")


def _of_first_layer(metadata: Metadata, key: str, default: int) -> int:
    if key not in metadata:
        return default
    value = metadata[key]
    return int(value) if isinstance(value, int) else int(next(iter(value), default))
