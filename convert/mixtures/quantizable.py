"""Which tensors llama-quantize may change at all.

Facts: llama.cpp src/llama-quant.cpp `tensor_allows_quantization`.
"""

from __future__ import annotations

from collections.abc import Sequence

_KEPT_NAMES = ("position_embd.weight", "token_types.weight")
_KEPT_PARTS = (
    "_norm.weight",
    "ffn_gate_inp.weight",
    "ffn_gate_tid2eid.weight",
    "altup",
    "laurel",
    "per_layer_model_proj",
    "ssm_conv1d",
    "shortconv.conv.weight",
    "indexer.k_proj.weight",
    "indexer.q_proj.weight",
    "time_mix_first.weight",
    "time_mix_w0.weight",
    "time_mix_w1.weight",
    "time_mix_w2.weight",
    "time_mix_v0.weight",
    "time_mix_v1.weight",
    "time_mix_v2.weight",
    "time_mix_a0.weight",
    "time_mix_a1.weight",
    "time_mix_a2.weight",
    "time_mix_g1.weight",
    "time_mix_g2.weight",
    "time_mix_decay_w1.weight",
    "time_mix_decay_w2.weight",
    "time_mix_lerp_fused.weight",
    "attn_rel_b.weight",
    ".position_embd",
    "sam.pos_embd",
    "sam.neck.",
    "sam.net_",
    ".rel_pos",
    ".patch_embd",
    ".patch_merger",
    "a.rvq.codebook",
    "mm.a.code_embd",
)
_KEPT_PARTS_OF = {
    "glm5-next": (
        "hc_",
        "indexer.attn_q_b",
        "indexer.attn_k",
        "indexer.proj",
        "indexer_compressor_gate",
        "indexer_compressor_ape",
        "ssm_f_a.weight",
        "ssm_f_b.weight",
        "ssm_g_a.weight",
        "ssm_g_b.weight",
        "ssm_beta.weight",
        "attn_kv_a_mqa.weight",
        "attn_k_b.weight",
        "attn_v_b.weight",
    )
}


def dimensions(shape: Sequence[int]) -> int:
    """Number of dimensions as ggml counts them: leading ones do not count, at least 1."""
    outermost = next((i for i, size in enumerate(shape) if size > 1), len(shape))
    return max(1, len(shape) - outermost)


def why_kept(name: str, shape: Sequence[int], architecture: str) -> str:
    """Why a tensor keeps its type; "" when it may be quantized. `shape` is rows first."""
    if dimensions(shape) < 2:
        return "fewer than 2 dimensions"
    # Not endswith: llama-quantize's test also lets any name of 5 characters pass.
    if name.rfind("weight") != len(name) - len("weight"):
        return "not named weight"
    if name in _KEPT_NAMES:
        return f"{name} is never quantized"
    parts = (*_KEPT_PARTS, *_KEPT_PARTS_OF.get(architecture, ()))
    found = next((part for part in parts if part in name), "")
    return f"{found} is never quantized" if found else ""
