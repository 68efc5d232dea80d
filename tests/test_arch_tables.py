"""Architecture tables against llama.cpp's converter, and every way a config or file can lie."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggq.convert.sources.model_dir import text_config
from ggq.errors import FormatError, UnsupportedModelError
from ggq.reader import Reader
from ggq.runtime.arch import all_archs, by_hf, by_name, check_tensors
from ggq.runtime.arch._base import PermuteRope, PlusOne
from ggq.runtime.arch.llama import llama3_factors
from tests.arch_cases import CONFIGS, GEMMA, LLAMA, QWEN2, QWEN3, QWEN3MOE
from tests.models import TINY, VOCAB_SIZE, Config

GOLDEN = Path(__file__).with_name("golden") / "arch_reference.json"
REFERENCE = json.loads(GOLDEN.read_text())
TYPES = {"UINT32": "U32", "FLOAT32": "F32", "BOOL": "BOOL", "STRING": "STRING"}


def keys_of(config: Config) -> list[list[Any]]:
    flat = text_config(config)
    entries = by_hf(flat["architectures"][0]).metadata(flat)
    return [[k, t.name, float(np.float32(v)) if t.name == "F32" else v] for k, t, v in entries]


def metadata_of(config: Config) -> dict[str, Any]:
    entries = by_hf(config["architectures"][0]).metadata(config)
    return {k: v for k, _, v in entries} | {"tokenizer.ggml.tokens": ["x"] * VOCAB_SIZE}


@pytest.mark.parametrize("name", [*TINY, *CONFIGS])
def test_keys_are_those_of_the_reference(name: str) -> None:
    config = TINY[name].config if name in TINY else CONFIGS[name]
    wanted = [[key, TYPES[kind], value] for key, kind, value in REFERENCE[name]["keys"]]
    assert keys_of(config) == wanted


@pytest.mark.parametrize("name", TINY)
def test_tensors_are_those_of_the_reference(name: str) -> None:
    model = TINY[name]
    arch = by_name(model.gguf_arch)
    values = model.tensors()
    computed = dict(arch.extra_tensors(model.config))
    made = {}
    for rule in arch.tensors(arch.hparams(metadata_of(model.config))):
        parts = [values[name] for name in rule.sources if name in values]
        x = computed.get(rule.name) if rule.source is None else parts[0] if parts else None
        if x is None:
            assert rule.optional
            continue
        if rule.is_stack:
            assert all(part.shape == rule.source_shape for part in parts)
            x = np.stack(parts)
        assert x.shape == rule.shape
        x = x if rule.transform is None else rule.transform.to_gguf(x)
        made[rule.name] = hashlib.sha256(np.ascontiguousarray(x, "<f4").tobytes()).hexdigest()
    assert made == REFERENCE[name]["tensors"]


@pytest.mark.parametrize("name", [*TINY, *(n for n in CONFIGS if n != "gemma3-multimodal")])
def test_config_of_metadata_gives_the_same_metadata(name: str) -> None:
    config = TINY[name].config if name in TINY else CONFIGS[name]
    arch = by_hf(config["architectures"][0])
    factors = dict(arch.extra_tensors(config)).get("rope_freqs.weight")
    back = json.loads(json.dumps(arch.config(metadata_of(config), factors)))
    assert keys_of(back) == keys_of(config)
    assert dict(arch.extra_tensors(back)).keys() == dict(arch.extra_tensors(config)).keys()


@pytest.mark.parametrize("name", TINY)
def test_independently_written_file_is_accepted(name: str, tmp_path: Path) -> None:
    with Reader(TINY[name].write_gguf(tmp_path / "m.gguf")) as reader:
        arch = by_name(reader.metadata["general.architecture"])
        rules = arch.tensors(arch.hparams(reader.metadata))
        shapes = {tensor.name: tensor.shape for tensor in reader.tensors.values()}
        assert check_tensors(rules, shapes).keys() == shapes.keys()


@given(st.integers(1, 4), st.sampled_from([2, 4, 6, 16, 64]), st.integers(1, 3))
def test_permute_rope_law(heads: int, head_dim: int, columns: int) -> None:
    x = np.arange(heads * head_dim * columns).reshape(-1, columns)
    permute = PermuteRope(head_dim)
    there = permute.to_gguf(x)
    assert np.array_equal(permute.to_hf(there), x)
    half = head_dim // 2
    for i in range(half):
        assert np.array_equal(there[2 * i], x[i])
        assert np.array_equal(there[2 * i + 1], x[i + half])
    pieces = [permute.to_gguf(x[h * head_dim : (h + 1) * head_dim]) for h in range(heads)]
    assert np.array_equal(np.concatenate(pieces), there)


@given(st.lists(st.floats(-4, 4, width=32), min_size=1))
def test_plus_one_comes_back_for_values_it_made(values: list[float]) -> None:
    stored = PlusOne().to_gguf(np.array(values, np.float32))
    assert stored.dtype == np.float32
    assert np.array_equal(PlusOne().to_gguf(PlusOne().to_hf(stored)), stored)


def test_plus_one_rounds_half_precision_in_half_precision() -> None:
    x = np.array([0.0004], np.float16)
    assert PlusOne().to_gguf(x).dtype == np.float16


LLAMA31_MIDDLE = [
    1.2074838876724243,
    1.5534145832061768,
    2.026313066482544,
    2.6945300102233887,
    3.684253215789795,
    5.257327079772949,
]


def test_llama3_factors_are_those_torch_gives() -> None:
    """Middle values of Llama 3.1 8B, made with torch by llama.cpp's converter."""
    made = llama3_factors(128, 500000.0, 8.0, 1.0, 4.0, 8192)
    assert made.dtype == np.float32
    assert made.tolist() == [1.0] * 29 + LLAMA31_MIDDLE + [8.0] * 29


def test_unknown_names_list_the_known() -> None:
    with pytest.raises(UnsupportedModelError, match=r"'bert'.*gemma3, llama, qwen2, qwen3, qw"):
        by_name("bert")
    with pytest.raises(UnsupportedModelError, match=r"'BertModel'.*LlamaForCausalLM"):
        by_hf("BertModel")
    names = [arch.name for arch in all_archs()]
    assert names == ["gemma3", "llama", "qwen2", "qwen3", "qwen3moe"]


def test_windows_that_gguf_cannot_hold_are_noted() -> None:
    mistral = TINY["mistral"].config
    arch = by_name("llama")
    assert arch.notes(mistral) == []
    assert "4096" in arch.notes(mistral | {"sliding_window": 4096})[0]
    assert by_name("qwen2").notes(QWEN2 | {"use_sliding_window": False, "sliding_window": 9}) == []
    window = {"use_sliding_window": True, "sliding_window": 77}
    assert "77" in by_name("qwen3").notes(QWEN3 | window)[0]
    assert "77" in by_name("qwen3moe").notes(QWEN3MOE | window)[0]


BAD_CONFIGS = [
    (LLAMA, "hidden_size", "64", "whole number"),
    (LLAMA, "hidden_size", 64.0, "whole number"),
    (LLAMA, "hidden_size", True, "whole number"),
    (LLAMA, "hidden_size", None, "absent"),
    (LLAMA, "num_hidden_layers", 0, "whole number"),
    (LLAMA, "num_attention_heads", -4, "whole number"),
    (LLAMA, "vocab_size", 10**40, "whole number"),
    (LLAMA, "rms_norm_eps", "1e-5", "finite number"),
    (LLAMA, "rms_norm_eps", float("nan"), "finite number"),
    (LLAMA, "rms_norm_eps", 1e-300, "finite number"),
    (LLAMA, "rope_theta", -1.0, "finite number"),
    (LLAMA, "rope_theta", float("inf"), "finite number"),
    (LLAMA, "rope_theta", 10**400, "finite number"),
    (LLAMA, "hidden_act", "relu", "hidden_act is 'relu'"),
    (LLAMA, "quantization_config", {"quant_method": "awq"}, "quantization_config"),
    (LLAMA, "num_local_experts", 8, "num_local_experts"),
    (LLAMA, "partial_rotary_factor", 0.5, "partial_rotary_factor"),
    (LLAMA, "is_causal", False, "is_causal"),
    (LLAMA, "rope_scaling", {"type": "dynamic", "factor": 2.0}, "rope_type is 'dynamic'"),
    (LLAMA, "rope_scaling", {"type": "longrope"}, "rope_type is 'longrope'"),
    (LLAMA, "rope_scaling", {"type": "linear"}, "factor is absent"),
    (LLAMA, "rope_scaling", [1], "wanted an object"),
    (LLAMA, "rope_scaling", {"type": "yarn", "factor": 2, "mscale": 1.0}, "mscale"),
    (QWEN2, "head_dim", 32, "head_dim is 32"),
    (QWEN2, "rope_scaling", {"rope_type": "llama3", "factor": 8.0}, "llama3"),
    (QWEN3, "attention_bias", True, "attention_bias"),
    (QWEN3, "rope_scaling", {"rope_type": "llama3", "factor": 8.0}, "llama3"),
    (QWEN3MOE, "attention_bias", True, "attention_bias"),
    (QWEN3MOE, "rope_scaling", {"rope_type": "llama3", "factor": 8.0}, "llama3"),
    (QWEN3MOE, "norm_topk_prob", False, "norm_topk_prob is False"),
    (QWEN3MOE, "norm_topk_prob", None, "norm_topk_prob is False"),
    (QWEN3MOE, "decoder_sparse_step", 2, "decoder_sparse_step"),
    (QWEN3MOE, "mlp_only_layers", [0], "mlp_only_layers"),
    (QWEN3MOE, "shared_expert_intermediate_size", 64, "shared_expert_intermediate_size"),
    (QWEN3MOE, "n_routed_experts", 8, "n_routed_experts"),
    (QWEN3MOE, "num_experts", 0, "num_experts"),
    (QWEN3MOE, "num_experts_per_tok", "3", "num_experts_per_tok"),
    (QWEN3MOE, "moe_intermediate_size", -1, "moe_intermediate_size"),
    (GEMMA, "hidden_activation", "gelu", "hidden_activation"),
    (GEMMA, "query_pre_attn_scalar", 144, "query_pre_attn_scalar is 144"),
    (GEMMA, "attn_logit_softcapping", 50.0, "attn_logit_softcapping"),
    (GEMMA, "use_bidirectional_attention", True, "use_bidirectional_attention"),
    (GEMMA, "sliding_window_pattern", 4, "every sixth"),
    (GEMMA, "layer_types", ["full_attention", "sliding_attention"], "every sixth"),
    (GEMMA, "final_logit_softcapping", "x", "finite number"),
]


@pytest.mark.parametrize(("base", "key", "value", "message"), BAD_CONFIGS)
def test_config_value_that_is_not_implemented(
    base: Config, key: str, value: Any, message: str
) -> None:
    config = base | {key: value}
    arch = by_hf(config["architectures"][0])
    with pytest.raises(UnsupportedModelError, match=message):
        arch.metadata(config)


LIES = [
    ("block_count", 0),
    ("block_count", 10**9),
    ("block_count", "4"),
    ("block_count", None),
    ("embedding_length", 0),
    ("embedding_length", 2**40),
    ("embedding_length", None),
    ("feed_forward_length", -1),
    ("feed_forward_length", np.array([1, 2])),
    ("feed_forward_length", None),
    ("attention.head_count", 0),
    ("attention.head_count", 3),
    ("attention.head_count", np.array([4, 4])),
    ("attention.head_count", 2**23),
    ("attention.head_count_kv", 3),
    ("attention.head_count_kv", 8),
    ("attention.head_count_kv", 0),
    ("attention.key_length", 15),
    ("attention.key_length", 0),
    ("attention.key_length", 2**20),
    ("attention.value_length", 8),
    ("attention.layer_norm_rms_epsilon", 0.0),
    ("attention.layer_norm_rms_epsilon", float("nan")),
    ("attention.layer_norm_rms_epsilon", float("inf")),
    ("attention.layer_norm_rms_epsilon", 2.0),
    ("attention.layer_norm_rms_epsilon", 1),
    ("attention.layer_norm_rms_epsilon", None),
    ("attention.causal", False),
    ("context_length", 0),
    ("context_length", 2**40),
    ("context_length", None),
    ("rope.dimension_count", 8),
    ("rope.freq_base", -1.0),
    ("rope.freq_base", float("nan")),
    ("rope.scaling.type", "longrope"),
    ("rope.scaling.type", 3),
    ("rope.scaling.factor", 0.0),
    ("rope.scaling.factor", float("inf")),
    ("vocab_size", 287),
    ("vocab_size", 0),
    ("expert_count", 2**20),
    ("expert_used_count", 2**20),
    ("nextn_predict_layers", 1),
]


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "qwen3moe", "gemma3"])
@pytest.mark.parametrize(("key", "value"), LIES)
def test_metadata_that_lies(name: str, key: str, value: Any) -> None:
    metadata = metadata_of(TINY[name].config)
    for implied in ("attention.key_length", "attention.value_length", "rope.dimension_count"):
        if key == "attention.head_count":
            metadata.pop(f"{name}.{implied}", None)
    metadata[f"{name}.{key}"] = value
    if value is None:
        del metadata[f"{name}.{key}"]
    with pytest.raises(FormatError, match=key.replace(".", r"\.")):
        by_name(name).hparams(metadata)


@pytest.mark.parametrize("tokens", [None, [], "text", 5])
def test_vocabulary_that_lies(tokens: Any) -> None:
    metadata = metadata_of(LLAMA) | {"tokenizer.ggml.tokens": tokens}
    with pytest.raises(FormatError, match=r"tokenizer\.ggml\.tokens"):
        by_name("llama").hparams(metadata)


GEMMA_LIES = [
    ("attention.sliding_window", "x"),
    ("attention.sliding_window", 2**40),
    ("attention.sliding_window_pattern", 2**40),
    ("attention.sliding_window_pattern", np.array([True, False])),
    ("rope.freq_base_swa", 0.0),
    ("final_logit_softcapping", float("nan")),
    ("attn_logit_softcapping", 50.0),
]


@pytest.mark.parametrize(("key", "value"), GEMMA_LIES)
def test_gemma_metadata_that_lies(key: str, value: Any) -> None:
    metadata = metadata_of(GEMMA) | {f"gemma3.{key}": value}
    with pytest.raises(FormatError, match=key.replace(".", r"\.")):
        by_name("gemma3").hparams(metadata)


EXPERT_LIES = [
    ("expert_count", None),
    ("expert_count", 0),
    ("expert_count", -12),
    ("expert_count", 12.0),
    ("expert_count", np.array([12, 12, 12])),
    ("expert_used_count", None),
    ("expert_used_count", 0),
    ("expert_used_count", 13),
    ("expert_used_count", np.array([3, 3, 3])),
    ("expert_feed_forward_length", 0),
    ("expert_feed_forward_length", 2**40),
    ("expert_feed_forward_length", "40"),
    ("expert_shared_count", 1),
    ("expert_shared_feed_forward_length", 40),
    ("expert_group_count", 2),
    ("expert_weights_scale", 2.5),
    ("expert_gating_func", 2),
    ("leading_dense_block_count", 1),
]


@pytest.mark.parametrize(("key", "value"), EXPERT_LIES)
def test_expert_metadata_that_lies(key: str, value: Any) -> None:
    metadata = metadata_of(QWEN3MOE) | {f"qwen3moe.{key}": value}
    if value is None:
        del metadata[f"qwen3moe.{key}"]
    with pytest.raises(FormatError, match=key.replace(".", r"\.")):
        by_name("qwen3moe").hparams(metadata)


def test_width_of_an_expert_without_its_key() -> None:
    metadata = metadata_of(QWEN3MOE)
    del metadata["qwen3moe.expert_feed_forward_length"]
    h: Any = by_name("qwen3moe").hparams(metadata)
    assert (h.n_expert, h.n_expert_used, h.n_ff_expert) == (12, 3, 96 // 3)


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "gemma3"])
def test_experts_where_there_are_none(name: str) -> None:
    metadata = metadata_of(TINY[name].config) | {f"{name}.expert_count": 8}
    with pytest.raises(FormatError, match="expert_count"):
        by_name(name).hparams(metadata)


def test_gemma_windows() -> None:
    metadata = metadata_of(GEMMA)
    h: Any = by_name("gemma3").hparams(metadata)
    assert h.windowed == (True, True, True, True, True, False, True)
    assert (h.sliding_window, h.rope_base_swa) == (16, 10000.0)
    flags = np.array([True, False] * 3 + [True])
    h = by_name("gemma3").hparams(metadata | {"gemma3.attention.sliding_window_pattern": flags})
    assert h.windowed == tuple(flags.tolist())


def test_qwen2_heads_must_make_the_width() -> None:
    metadata = metadata_of(QWEN2) | {"qwen2.attention.key_length": 32}
    metadata["qwen2.attention.value_length"] = 32
    with pytest.raises(FormatError, match="4 heads of 32 do not make the width 64"):
        by_name("qwen2").hparams(metadata)


@pytest.mark.parametrize("name", TINY)
def test_every_tensor_is_checked(name: str) -> None:
    arch = by_name(TINY[name].gguf_arch)
    rules = arch.tensors(arch.hparams(metadata_of(TINY[name].config)))
    shapes = {rule.name: rule.shape for rule in rules}
    assert check_tensors(rules, shapes).keys() == shapes.keys()
    for rule in rules:
        without = {key: value for key, value in shapes.items() if key != rule.name}
        if rule.optional:
            check_tensors(rules, without)
        else:
            with pytest.raises(FormatError, match=f"{rule.name} of shape .* is missing"):
                check_tensors(rules, without)
        with pytest.raises(FormatError, match=f"{rule.name} has shape"):
            check_tensors(rules, shapes | {rule.name: (*rule.shape[:-1], rule.shape[-1] + 1)})
    with pytest.raises(FormatError, match=r"blk\.0\.attn_qkv\.weight has no place"):
        check_tensors(rules, shapes | {"blk.0.attn_qkv.weight": (1, 1)})


def test_rope_divisors_of_no_known_scaling_cannot_be_exported() -> None:
    metadata = metadata_of(LLAMA)
    with pytest.raises(UnsupportedModelError, match="rope_freqs"):
        by_name("llama").config(metadata, np.array([1, 2, 3, 4, 5, 6, 7, 8], np.float32))
