"""Qwen3 with experts: the attention of Qwen3, and a router that picks some feed-forward parts.

Source: llama.cpp conversion/qwen.py, src/models/qwen3moe.cpp; defaults: transformers
Qwen3MoeConfig.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ggq.runtime.arch._base import Arch, Array, Entry, TensorRule
from ggq.runtime.arch._config import Config, wrong
from ggq.runtime.arch._decoder import (
    U32,
    attention_matrices,
    decoder_config,
    decoder_metadata,
    decoder_tensors,
    refuse_unknown,
    window_notes,
)
from ggq.runtime.arch._experts import (
    ExpertHParams,
    expert_config,
    expert_counts,
    expert_ffn,
    expert_hparams,
    expert_tensors,
)
from ggq.runtime.arch._forward import decoder_forward

if TYPE_CHECKING:
    from ggq.runtime.graph import Graph

DEFAULTS = {
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 24,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "vocab_size": 151936,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 768,
    "norm_topk_prob": False,
}


class Qwen3Moe(Arch):
    """Qwen3 with experts in every layer."""

    name = "qwen3moe"
    hf = ("Qwen3MoeForCausalLM",)

    def metadata(self, config: dict[str, Any]) -> list[Entry]:
        """The qwen3moe.* keys."""
        c = Config(config, DEFAULTS)
        refuse_unknown(c, "silu", experts=True)
        c.only("attention_bias", False)
        c.only("decoder_sparse_step", 1)
        c.only("mlp_only_layers", [])
        c.only("shared_expert_intermediate_size", 0)
        # GGUF has no key for weights that are left as they are.
        c.only("norm_topk_prob", True)
        rope = c.rope(10000.0)
        if rope["rope_type"] == "llama3":
            raise wrong("rope_type", "llama3", "default, linear or yarn")
        head_dim = c.integer("head_dim") if "head_dim" in c else None
        entries = decoder_metadata("qwen3moe", c, rope, head_dim, experts=expert_counts(c))
        width = c.integer("moe_intermediate_size")
        entries.append(("qwen3moe.expert_feed_forward_length", U32, width))
        if "shared_expert_intermediate_size" in c:
            entries.append(("qwen3moe.expert_shared_feed_forward_length", U32, 0))
        return entries

    def notes(self, config: dict[str, Any]) -> list[str]:
        """The attention window."""
        window = config.get("sliding_window") if config.get("use_sliding_window") else None
        return window_notes(window)

    def config(
        self, metadata: Mapping[str, Any], rope_factors: Array | None = None
    ) -> dict[str, Any]:
        """config.json of a Qwen3MoeForCausalLM."""
        h = self.hparams(metadata)
        config: dict[str, Any] = {
            "architectures": ["Qwen3MoeForCausalLM"],
            "model_type": "qwen3_moe",
        }
        config |= decoder_config(metadata, "qwen3moe", h) | expert_config(h)
        if "qwen3moe.attention.key_length" not in metadata:
            del config["head_dim"]
        if "qwen3moe.expert_shared_feed_forward_length" in metadata:
            config["shared_expert_intermediate_size"] = 0
        return config | {
            "hidden_act": "silu",
            "attention_bias": False,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
        }

    def hparams(self, metadata: Mapping[str, Any]) -> ExpertHParams:
        """Checked qwen3moe.* keys."""
        return expert_hparams(metadata, "qwen3moe")

    def forward(self, g: Graph, h: ExpertHParams) -> None:
        """A pre-norm decoder with experts."""
        decoder_forward(g, h, neox=True, head_norms=True, ffn=expert_ffn(h))

    def tensors(self, h: Any) -> list[TensorRule]:
        """As Qwen3, with a router and stacks of matrices."""
        return decoder_tensors(
            h,
            [
                ("attn_norm.weight", "input_layernorm.weight", (h.n_embd,), None, False),
                ("ffn_norm.weight", "post_attention_layernorm.weight", (h.n_embd,), None, False),
                *attention_matrices(h),
                ("attn_q_norm.weight", "self_attn.q_norm.weight", (h.head_dim,), None, False),
                ("attn_k_norm.weight", "self_attn.k_norm.weight", (h.head_dim,), None, False),
                *expert_tensors(h),
            ],
        )
