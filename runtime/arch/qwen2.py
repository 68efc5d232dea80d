"""Qwen2 and Qwen2.5: Llama with biases on query, key and value, and rope on halves of a head.

Source: llama.cpp conversion/qwen.py, src/models/qwen2.cpp; defaults: transformers Qwen2Config.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ggq.errors import FormatError
from ggq.runtime.arch._base import Arch, Array, Entry, HParams, TensorRule
from ggq.runtime.arch._config import Config, wrong
from ggq.runtime.arch._decoder import (
    attention_and_ffn,
    decoder_config,
    decoder_metadata,
    decoder_tensors,
    refuse_unknown,
    window_notes,
)
from ggq.runtime.arch._forward import decoder_forward
from ggq.runtime.arch._hparams import decoder_hparams

if TYPE_CHECKING:
    from ggq.runtime.graph import Graph

DEFAULTS = {"max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "num_key_value_heads": 32}


class Qwen2(Arch):
    """Qwen2 and Qwen2.5, dense."""

    name = "qwen2"
    hf = ("Qwen2ForCausalLM",)

    def metadata(self, config: dict[str, Any]) -> list[Entry]:
        """The qwen2.* keys."""
        c = Config(config, DEFAULTS)
        refuse_unknown(c, "silu")
        head_dim = c.integer("head_dim") if "head_dim" in c else None
        width = c.integer("hidden_size") // c.integer("num_attention_heads")
        if head_dim not in (None, width):
            raise wrong("head_dim", head_dim, f"{width}, hidden_size / num_attention_heads")
        rope = c.rope(10000.0)
        if rope["rope_type"] == "llama3":
            raise wrong("rope_type", "llama3", "default, linear or yarn")
        return decoder_metadata("qwen2", c, rope, head_dim)

    def notes(self, config: dict[str, Any]) -> list[str]:
        """The attention window."""
        window = config.get("sliding_window") if config.get("use_sliding_window") else None
        return window_notes(window)

    def config(
        self, metadata: Mapping[str, Any], rope_factors: Array | None = None
    ) -> dict[str, Any]:
        """config.json of a Qwen2ForCausalLM."""
        config = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}
        config |= decoder_config(metadata, "qwen2", self.hparams(metadata))
        if "qwen2.attention.key_length" not in metadata:
            del config["head_dim"]
        return config | {"hidden_act": "silu"}

    def hparams(self, metadata: Mapping[str, Any]) -> HParams:
        """Checked qwen2.* keys."""
        h = HParams(**decoder_hparams(metadata, "qwen2"))
        if h.n_head * h.head_dim != h.n_embd:
            raise FormatError(
                f"qwen2: {h.n_head} heads of {h.head_dim} do not make the width {h.n_embd}"
            )
        return h

    def forward(self, g: Graph, h: HParams) -> None:
        """A pre-norm decoder."""
        decoder_forward(g, h, neox=True)

    def tensors(self, h: HParams) -> list[TensorRule]:
        """As Llama, with three biases a layer."""
        kv = h.n_head_kv * h.head_dim
        return decoder_tensors(
            h,
            [
                ("attn_norm.weight", "input_layernorm.weight", (h.n_embd,), None, False),
                ("ffn_norm.weight", "post_attention_layernorm.weight", (h.n_embd,), None, False),
                *attention_and_ffn(h),
                ("attn_q.bias", "self_attn.q_proj.bias", (h.n_embd,), None, False),
                ("attn_k.bias", "self_attn.k_proj.bias", (kv,), None, False),
                ("attn_v.bias", "self_attn.v_proj.bias", (kv,), None, False),
            ],
        )
