"""Configurations whose keys and tensors are compared with llama.cpp's own converter."""

from __future__ import annotations

from typing import Any

from tests.models import LLAMA3_SCALING, TINY, Config

LLAMA, QWEN2, QWEN3 = TINY["llama"].config, TINY["qwen2"].config, TINY["qwen3"].config
QWEN3MOE, GEMMA = TINY["qwen3moe"].config, TINY["gemma3"].config
YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
NESTED = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5e5},
    "sliding_attention": {"rope_type": "default", "rope_theta": 20000.0},
}


def _without(config: Config, *keys: str, **changes: Any) -> Config:
    return {key: value for key, value in config.items() if key not in keys} | changes


# Only keys are compared for these; the tiny models themselves are converted whole.
CONFIGS: dict[str, Config] = {
    "llama-head-dim": LLAMA | {"head_dim": 32},
    "llama-yarn": LLAMA | {"rope_scaling": YARN | {"beta_fast": 16.0, "beta_slow": 2.0}},
    "llama-linear": LLAMA | {"rope_scaling": {"type": "linear", "factor": 2.5}},
    "llama-new-rope": _without(
        LLAMA, "rope_theta", rope_parameters=LLAMA3_SCALING | {"rope_theta": 500000.0}
    ),
    "llama-defaults": _without(
        LLAMA, "max_position_embeddings", "rms_norm_eps", "rope_theta", "num_key_value_heads"
    ),
    "mistral-defaults": _without(
        TINY["mistral"].config,
        "max_position_embeddings",
        "rms_norm_eps",
        "num_key_value_heads",
        "head_dim",
        num_attention_heads=16,
    ),
    "qwen2-yarn": QWEN2 | {"rope_scaling": YARN, "use_sliding_window": False},
    "qwen2-defaults": _without(
        QWEN2, "max_position_embeddings", "num_key_value_heads", num_attention_heads=32
    ),
    "qwen3-yarn": QWEN3 | {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}},
    "qwen3-defaults": _without(QWEN3, "head_dim", "max_position_embeddings", "rope_theta"),
    "qwen3moe-published": QWEN3MOE
    | {
        "hidden_size": 2048,
        "intermediate_size": 5472,
        "num_hidden_layers": 48,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
        "shared_expert_intermediate_size": 0,
        "max_position_embeddings": 262144,
    },
    "qwen3moe-yarn": QWEN3MOE | {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
    "qwen3moe-defaults": {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "norm_topk_prob": True,
    },
    "qwen3moe-local-experts": _without(QWEN3MOE, "num_experts", num_local_experts=6),
    "gemma3-softcap": GEMMA | {"final_logit_softcapping": 30.0},
    "gemma3-linear": GEMMA | {"rope_scaling": {"rope_type": "linear", "factor": 8.0}},
    "gemma3-nested-rope": _without(
        GEMMA, "rope_theta", "rope_local_base_freq", rope_parameters=NESTED
    ),
    "gemma3-no-window": GEMMA | {"sliding_window_pattern": 1},
    "gemma3-multimodal": {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "model_type": "gemma3",
        "text_config": {
            "model_type": "gemma3_text",
            "hidden_size": 2560,
            "intermediate_size": 10240,
            "num_hidden_layers": 34,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            "sliding_window": 1024,
        },
        "vision_config": {"model_type": "siglip_vision_model", "hidden_size": 32},
    },
}

# Presets in which the tiny models are compared as whole files.
PRESETS = ("F32", "F16", "Q8_0", "Q4_K_M")
