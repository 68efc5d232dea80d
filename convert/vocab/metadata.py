"""The tokenizer.* keys of a model directory, the same that llama.cpp's converter writes.

tokenizer.model (sentencepiece) goes before tokenizer.json (BPE).
Facts: llama.cpp conversion/llama.py, qwen.py, gemma.py `set_vocab`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ggq.convert.vocab.bpe import BpeFile
from ggq.convert.vocab.special import ID_KEYS, Entry, optional_json, special_metadata
from ggq.convert.vocab.spm import spm_metadata
from ggq.errors import NotFoundError, TokenizerError
from ggq.spec import ValueType

SPACE_PREFIX_KEY = "tokenizer.ggml.add_space_prefix"
ADD_BOS_KEY = "tokenizer.ggml.add_bos_token"
# CodeLlama's infill tokens, known by the size of its vocabulary.
CODE_LLAMA_VOCAB, CODE_LLAMA_EOT = 32016, 32010
SMALL_GRANITE_VOCAB = 49152


def tokenizer_metadata(model_dir: Path, config: dict[str, Any]) -> list[Entry]:
    """(key, type, value) of the tokenizer, arrays with their item type as a fourth.

    `config` is the text part of config.json. Raises TokenizerError, ConvertError, NotFoundError.
    """
    family = _family(config)
    before = _llama_prefix(model_dir) if family == "llama" else []
    n_vocab: int | None = None
    if (model_dir / "tokenizer.model").is_file():
        table, n_vocab = spm_metadata(model_dir, config)
    elif (model_dir / "tokenizer.json").is_file():
        file = BpeFile(model_dir)
        if family == "llama" and file.is_sentencepiece:
            table, n_vocab = file.sentencepiece_metadata(config)
        else:
            table = file.metadata(config)
    else:
        raise NotFoundError(
            f"{model_dir}: there is no tokenizer.model and no tokenizer.json{_instead(model_dir)}"
        )
    entries = [*before, *table, *special_metadata(model_dir, n_vocab)]
    if family == "gemma" and n_vocab is not None:
        entries.append((SPACE_PREFIX_KEY, ValueType.BOOL, False))
    if family == "llama" and config.get("vocab_size") == CODE_LLAMA_VOCAB:
        entries.append((ID_KEYS["eot"], ValueType.U32, CODE_LLAMA_EOT))
    if family == "llama" and config.get("vocab_size") == SMALL_GRANITE_VOCAB:
        entries.append((ADD_BOS_KEY, ValueType.BOOL, False))
    return entries


def _family(config: dict[str, Any]) -> str:
    classes = config.get("architectures") or [""]
    name = str(classes[0])
    known = {"Gemma": "gemma", "Qwen": "qwen"}
    return next((family for start, family in known.items() if name.startswith(start)), "llama")


def _llama_prefix(model_dir: Path) -> list[Entry]:
    config = optional_json(model_dir / "tokenizer_config.json")
    if config.get("tokenizer_class") == "HybridDNATokenizer":
        raise TokenizerError("tokenizer_config.json: HybridDNATokenizer is not implemented")
    add = config.get("add_prefix_space")
    return [] if add is None else [(SPACE_PREFIX_KEY, ValueType.BOOL, bool(add))]


def _instead(model_dir: Path) -> str:
    for name in ("tekken.json", "vocab.json"):
        if (model_dir / name).is_file():
            return f"; {name} alone is not enough, tokenizer.json can be made of it by transformers"
    return ""
