"""Gemma 3 text: sandwich norms of 1 + w, norms on query and key, five of six layers windowed.

Source: llama.cpp conversion/gemma.py, src/models/gemma3.cpp; defaults: transformers
Gemma3TextConfig.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ggq.runtime.arch._base import Arch, Array, Entry, HParams, PlusOne, RopeScaling, TensorRule
from ggq.runtime.arch._config import Config, positive, wrong
from ggq.runtime.arch._decoder import (
    F32,
    U32,
    attention_and_ffn,
    decoder_config,
    decoder_metadata,
    decoder_tensors,
    refuse_unknown,
    shortest,
)
from ggq.runtime.arch._forward import output_name
from ggq.runtime.arch._hparams import MAX_CONTEXT, Keys, decoder_hparams

if TYPE_CHECKING:
    from ggq.runtime.graph import Graph

DEFAULTS = {
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-6,
    "vocab_size": 262208,
    "sliding_window": 4096,
    "query_pre_attn_scalar": 256,
}
PERIOD = 6
LAYERS_27B = 62  # the one size that scales attention by the width of a head slot, not of a head


@dataclass(frozen=True)
class Gemma3HParams(HParams):
    """`windowed[n]`: layer n sees `sliding_window` tokens and turns by `rope_base_swa`."""

    sliding_window: int
    windowed: tuple[bool, ...]
    rope_base_swa: float
    final_softcap: float


class Gemma3(Arch):
    """Gemma 3, the text part."""

    name = "gemma3"
    hf = ("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration")

    def metadata(self, config: dict[str, Any]) -> list[Entry]:
        """The gemma3.* keys."""
        c = Config(config, DEFAULTS)
        refuse_unknown(c, "gelu_pytorch_tanh")
        c.only("attention_bias", False)
        c.only("use_bidirectional_attention", False)
        c.only("attn_logit_softcapping")
        c.only("query_pre_attn_scalar", _attention_width(c))
        rope = c.rope(1e6, "full_attention")
        if rope["rope_type"] == "llama3":
            raise wrong("rope_type", "llama3", "default, linear or yarn")
        entries = decoder_metadata("gemma3", c, rope, c.integer("head_dim"), _local_base(c))
        if (softcap := c.get("final_logit_softcapping")) is not None:
            entries.append(
                (
                    "gemma3.final_logit_softcapping",
                    F32,
                    positive("final_logit_softcapping", softcap),
                )
            )
        if _period(c) != 1:
            entries.append(("gemma3.attention.sliding_window", U32, c.integer("sliding_window")))
        return entries

    def config(
        self, metadata: Mapping[str, Any], rope_factors: Array | None = None
    ) -> dict[str, Any]:
        """config.json of a Gemma3ForCausalLM."""
        h = self.hparams(metadata)
        kinds = {True: "sliding_attention", False: "full_attention"}
        config = {"architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text"}
        config |= decoder_config(metadata, "gemma3", h)
        return config | {
            "hidden_activation": "gelu_pytorch_tanh",
            "attention_bias": False,
            "query_pre_attn_scalar": round(h.attention_scale**-2),
            "layer_types": [kinds[windowed] for windowed in h.windowed],
            "sliding_window": h.sliding_window,
            "sliding_window_pattern": PERIOD if h.sliding_window else 1,
            "rope_local_base_freq": shortest(h.rope_base_swa),
            "final_logit_softcapping": shortest(h.final_softcap) if h.final_softcap else None,
            "attn_logit_softcapping": None,
            "use_bidirectional_attention": False,
        }

    def hparams(self, metadata: Mapping[str, Any]) -> Gemma3HParams:
        """Checked gemma3.* keys."""
        keys = Keys(metadata, "gemma3")
        keys.absent("attn_logit_softcapping")
        fields = decoder_hparams(metadata, "gemma3")
        if fields["n_layer"] == LAYERS_27B:
            fields["attention_scale"] = 1 / math.sqrt(fields["n_embd"] // fields["n_head"])
        window = keys.integer("attention.sliding_window", MAX_CONTEXT) if _has_window(keys) else 0
        return Gemma3HParams(
            **fields,
            sliding_window=window,
            windowed=_windowed(keys, fields["n_layer"]) if window else (False,) * fields["n_layer"],
            rope_base_swa=keys.number("rope.freq_base_swa", 10000.0, above=1.0),
            final_softcap=(
                keys.number("final_logit_softcapping")
                if keys.get("final_logit_softcapping")
                else 0.0
            ),
        )

    def forward(self, g: Graph, h: Gemma3HParams) -> None:
        """Norms before and behind each sub-layer; windowed layers have their own rope."""
        full = g.rope(h.rope_dim, h.rope_base, h.rope_scaling)
        local = g.rope(h.rope_dim, h.rope_base_swa, RopeScaling())
        x = g.embed("token_embd.weight", scale=math.sqrt(h.n_embd))
        for layer, windowed in enumerate(h.windowed):
            blk = f"blk.{layer}."
            a = g.norm(x, f"{blk}attn_norm.weight", h.rms_eps)
            q, k, v = (g.linear(a, f"{blk}attn_{n}") for n in "qkv")
            o = g.attention(
                q, k, v, layer, heads_q=h.n_head, heads_kv=h.n_head_kv, dims=h.head_dim,
                rope=local if windowed else full, neox=True, scale=h.attention_scale,
                window=h.sliding_window if windowed else 0, eps=h.rms_eps,
                q_norm=f"{blk}attn_q_norm.weight", k_norm=f"{blk}attn_k_norm.weight",
            )  # fmt: skip
            y = g.linear(o, f"{blk}attn_output")
            g.add_norm(y, f"{blk}post_attention_norm.weight", h.rms_eps, x)
            f = g.norm(x, f"{blk}ffn_norm.weight", h.rms_eps)
            hidden = g.gated("gelu", g.linear(f, f"{blk}ffn_gate"), g.linear(f, f"{blk}ffn_up"))
            y = g.linear(hidden, f"{blk}ffn_down")
            g.add_norm(y, f"{blk}post_ffw_norm.weight", h.rms_eps, x)
        last = g.norm(x, "output_norm.weight", h.rms_eps, last=True)
        g.output(last, output_name(g), softcap=h.final_softcap)

    def tensors(self, h: HParams) -> list[TensorRule]:
        """Four norms around attention and feed-forward, two on the heads, all stored as 1 + w."""
        norm, head = (h.n_embd,), (h.head_dim,)
        plus = PlusOne()
        rules = decoder_tensors(
            h,
            [
                ("attn_norm.weight", "input_layernorm.weight", norm, plus, False),
                (
                    "post_attention_norm.weight",
                    "post_attention_layernorm.weight",
                    norm,
                    plus,
                    False,
                ),
                ("ffn_norm.weight", "pre_feedforward_layernorm.weight", norm, plus, False),
                ("post_ffw_norm.weight", "post_feedforward_layernorm.weight", norm, plus, False),
                *attention_and_ffn(h),
                ("attn_q_norm.weight", "self_attn.q_norm.weight", head, plus, False),
                ("attn_k_norm.weight", "self_attn.k_norm.weight", head, plus, False),
            ],
        )
        return [replace(r, transform=plus) if r.role == "output_norm" else r for r in rules]


def _attention_width(c: Config) -> int:
    if c.integer("num_hidden_layers") == LAYERS_27B:
        return c.integer("hidden_size") // c.integer("num_attention_heads")
    return c.integer("head_dim")


def _local_base(c: Config) -> float:
    local = c.get("rope_local_base_freq", 10000.0)
    nested = c.get("rope_parameters")
    if isinstance(nested, dict) and isinstance(nested.get("sliding_attention"), dict):
        sliding = nested["sliding_attention"]
        if sliding.get("rope_type", "default") != "default":
            raise wrong("rope_parameters.sliding_attention", sliding, "rope_type default")
        local = sliding.get("rope_theta", local)
    return positive("rope_local_base_freq", local)


def _period(c: Config) -> int:
    """1: no layer has a window; 6: all but every sixth. Raises UnsupportedModelError for others."""
    n_layer = c.integer("num_hidden_layers")
    kinds = c.get("layer_types")
    period = c.get("sliding_window_pattern", c.get("_sliding_window_pattern", PERIOD))
    for candidate in (PERIOD, 1):
        made = [
            "sliding_attention" if (n + 1) % candidate else "full_attention" for n in range(n_layer)
        ]
        if made == kinds or (kinds is None and period == candidate):
            return candidate
    raise wrong("layer_types", kinds or period, "every sixth layer without a window, or all")


def _has_window(keys: Keys) -> bool:
    return bool(keys.get("attention.sliding_window"))


def _windowed(keys: Keys, n_layer: int) -> tuple[bool, ...]:
    """The layers with a window: an array of flags, or a period of which the last layer has none."""
    pattern = keys.get("attention.sliding_window_pattern")
    if isinstance(pattern, np.ndarray):
        if len(pattern) != n_layer or pattern.dtype.kind not in "biu":
            raise keys.wrong("attention.sliding_window_pattern", f"{n_layer} flags")
        return tuple(bool(flag) for flag in pattern)
    period = keys.integer("attention.sliding_window_pattern", default=PERIOD)
    return tuple(n % period < period - 1 for n in range(n_layer))
