"""Qwen3 dense: Llama with an RMS norm on each head of query and key, and rope on halves.

Source: llama.cpp conversion/qwen.py, src/models/qwen3.cpp; defaults: transformers Qwen3Config.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

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

DEFAULTS = {
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "num_key_value_heads": 32,
    "head_dim": 128,
}


class Qwen3(Arch):
    """Qwen3, dense."""

    name = "qwen3"
    hf = ("Qwen3ForCausalLM",)

    def metadata(self, config: dict[str, Any]) -> list[Entry]:
        """The qwen3.* keys."""
        c = Config(config, DEFAULTS)
        refuse_unknown(c, "silu")
        c.only("attention_bias", False)
        rope = c.rope(10000.0)
        if rope["rope_type"] == "llama3":
            raise wrong("rope_type", "llama3", "default, linear or yarn")
        return decoder_metadata("qwen3", c, rope, c.integer("head_dim"))

    def notes(self, config: dict[str, Any]) -> list[str]:
        """The attention window."""
        window = config.get("sliding_window") if config.get("use_sliding_window") else None
        return window_notes(window)

    def config(
        self, metadata: Mapping[str, Any], rope_factors: Array | None = None
    ) -> dict[str, Any]:
        """config.json of a Qwen3ForCausalLM."""
        config = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}
        config |= decoder_config(metadata, "qwen3", self.hparams(metadata))
        return config | {"hidden_act": "silu", "attention_bias": False}

    def hparams(self, metadata: Mapping[str, Any]) -> HParams:
        """Checked qwen3.* keys."""
        return HParams(**decoder_hparams(metadata, "qwen3"))

    def forward(self, g: Graph, h: HParams) -> None:
        """A pre-norm decoder."""
        decoder_forward(g, h, neox=True, head_norms=True)

    def tensors(self, h: HParams) -> list[TensorRule]:
        """As Llama, with a norm for the heads of query and key."""
        return decoder_tensors(
            h,
            [
                ("attn_norm.weight", "input_layernorm.weight", (h.n_embd,), None, False),
                ("ffn_norm.weight", "post_attention_layernorm.weight", (h.n_embd,), None, False),
                *attention_and_ffn(h),
                ("attn_q_norm.weight", "self_attn.q_norm.weight", (h.head_dim,), None, False),
                ("attn_k_norm.weight", "self_attn.k_norm.weight", (h.head_dim,), None, False),
            ],
        )
