"""Llama: RMS norms, grouped attention with adjacent-pair rope, SwiGLU.

Also Mistral, SmolLM2, TinyLlama and everything else saved as LlamaForCausalLM.
Source: llama.cpp conversion/llama.py, src/models/llama.cpp; defaults: transformers LlamaConfig.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ggq.errors import UnsupportedModelError
from ggq.runtime.arch._base import Arch, Array, Entry, HParams, PermuteRope, TensorRule
from ggq.runtime.arch._config import Config, positive
from ggq.runtime.arch._decoder import (
    U32,
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

DEFAULTS = {"max_position_embeddings": 2048, "rms_norm_eps": 1e-6}
MISTRAL = {"max_position_embeddings": 131072, "num_key_value_heads": 8}
# (factor, low, high, original context) of the published models with Llama 3 rope scaling.
KNOWN_SCALINGS = [(8.0, 1.0, 4.0, 8192), (32.0, 1.0, 4.0, 8192)]


class Llama(Arch):
    """Llama and the models that share its architecture."""

    name = "llama"
    hf = ("LlamaForCausalLM", "LLaMAForCausalLM", "MistralForCausalLM")

    def metadata(self, config: dict[str, Any]) -> list[Entry]:
        """The llama.* keys."""
        c = _config(config)
        refuse_unknown(c, "silu")
        head_dim = _head_dim(c)
        rope = c.rope(10000.0)
        return [
            *decoder_metadata("llama", c, rope, head_dim),
            ("llama.vocab_size", U32, c.integer("vocab_size")),
            ("llama.rope.dimension_count", U32, head_dim),
        ]

    def notes(self, config: dict[str, Any]) -> list[str]:
        """Mistral's attention window has no place in GGUF."""
        default = 4096 if config.get("model_type") == "mistral" else None
        return window_notes(config.get("sliding_window", default))

    def config(
        self, metadata: Mapping[str, Any], rope_factors: Array | None = None
    ) -> dict[str, Any]:
        """config.json of a LlamaForCausalLM."""
        h = self.hparams(metadata)
        config: dict[str, Any] = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
        config |= decoder_config(metadata, "llama", h) | {"hidden_act": "silu"}
        if rope_factors is not None:
            config["rope_scaling"] = _scaling_of(rope_factors, h)
        return config

    def hparams(self, metadata: Mapping[str, Any]) -> HParams:
        """Checked llama.* keys."""
        return HParams(**decoder_hparams(metadata, "llama"))

    def forward(self, g: Graph, h: HParams) -> None:
        """A pre-norm decoder."""
        decoder_forward(g, h, neox=False)

    def tensors(self, h: HParams) -> list[TensorRule]:
        """Biases are optional; so are the divisors of Llama 3 rope scaling."""
        q, kv = h.n_head * h.head_dim, h.n_head_kv * h.head_dim
        rope = PermuteRope(h.head_dim)
        rules = decoder_tensors(
            h,
            [
                ("attn_norm.weight", "input_layernorm.weight", (h.n_embd,), None, False),
                ("ffn_norm.weight", "post_attention_layernorm.weight", (h.n_embd,), None, False),
                *attention_and_ffn(h, rope),
                ("attn_q.bias", "self_attn.q_proj.bias", (q,), rope, True),
                ("attn_k.bias", "self_attn.k_proj.bias", (kv,), rope, True),
                ("attn_v.bias", "self_attn.v_proj.bias", (kv,), None, True),
                ("attn_output.bias", "self_attn.o_proj.bias", (h.n_embd,), None, True),
                ("ffn_gate.bias", "mlp.gate_proj.bias", (h.n_ff,), None, True),
                ("ffn_up.bias", "mlp.up_proj.bias", (h.n_ff,), None, True),
                ("ffn_down.bias", "mlp.down_proj.bias", (h.n_embd,), None, True),
            ],
        )
        freqs = TensorRule(
            "rope_freqs.weight", None, (h.rope_dim // 2,), None, True, role="rope_freqs"
        )
        return [*rules, freqs]

    def extra_tensors(self, config: dict[str, Any]) -> list[tuple[str, npt.NDArray[np.float32]]]:
        """rope_freqs.weight, f32 [head_dim / 2], for Llama 3 rope scaling."""
        c = _config(config)
        rope = c.rope(10000.0)
        if rope["rope_type"] != "llama3":
            return []
        factors = llama3_factors(
            _head_dim(c),
            rope["rope_theta"],
            positive("factor", rope.get("factor", 8.0)),
            positive("low_freq_factor", rope.get("low_freq_factor", 1.0)),
            positive("high_freq_factor", rope.get("high_freq_factor", 4.0)),
            positive(
                "original_max_position_embeddings",
                rope.get("original_max_position_embeddings", c.integer("max_position_embeddings")),
            ),
        )
        return [("rope_freqs.weight", factors)]


def _config(config: dict[str, Any]) -> Config:
    mistral = MISTRAL if config.get("model_type") == "mistral" else {}
    return Config(config, DEFAULTS | mistral)


def _head_dim(c: Config) -> int:
    return c.integer("head_dim", c.integer("hidden_size") // c.integer("num_attention_heads"))


def llama3_factors(
    head_dim: int, base: float, factor: float, low: float, high: float, context: float
) -> npt.NDArray[np.float32]:
    """f32 [head_dim / 2]: what Llama 3 divides each rope frequency by.

    Long waves by `factor`, short ones by 1, smoothly in between. Every step is rounded to f32, in
    the order of llama.cpp conversion/llama.py, so that the values are the same to the last bit.
    """
    one = np.float32(1)
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    # f32 powers of numpy are off by a bit now and then; rounded f64 powers are not.
    powers = np.power(base, exponents.astype(np.float64)).astype(np.float32)
    frequencies = one / powers
    waves = (one / frequencies) * np.float32(2 * math.pi)
    smooth = (one / waves) * np.float32(context)
    smooth = (smooth - np.float32(low)) / np.float32(high - low)
    blended = one / ((one - smooth) / np.float32(factor) + smooth)
    is_long, is_short = waves > context / low, waves < context / high
    return np.where(is_short, one, np.where(is_long, np.float32(factor), blended))


def _scaling_of(factors: Array, h: HParams) -> dict[str, Any]:
    """The rope_scaling that gives `factors`. Raises UnsupportedModelError if none is known."""
    for factor, low, high, context in [*KNOWN_SCALINGS, *_guesses(factors, h)]:
        made = llama3_factors(h.head_dim, h.rope_base, factor, low, high, context)
        if np.array_equal(made, factors):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low,
                "high_freq_factor": high,
                "original_max_position_embeddings": context,
            }
    raise UnsupportedModelError(
        "rope_freqs.weight: no Llama 3 rope scaling gives these divisors, "
        "so config.json cannot be written"
    )


def _guesses(factors: Array, h: HParams) -> list[tuple[float, float, float, int]]:
    contexts = [2**n for n in range(5, 21) if 2**n <= h.n_ctx]
    return [(float(factors.max()), 1.0, 4.0, context) for context in contexts]
