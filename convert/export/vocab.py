"""The tokenizer files of a model directory from the metadata of a GGUF file.

BPE becomes tokenizer.json, sentencepiece tokenizer.model; tokenizer_config.json has the special
tokens and the chat templates. Converting the directory gives the same tokens, types, scores and
merges again.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from ggq.convert.export.sentencepiece_model import serialize
from ggq.convert.sources.json_file import read_json
from ggq.convert.vocab.pre import published_steps
from ggq.convert.vocab.special import ADD_KEYS, ID_KEYS, ROLES, TEMPLATE_KEY, Json
from ggq.convert.vocab.tokens import looks_special
from ggq.errors import TokenizerError
from ggq.metadata import Metadata
from ggq.runtime.tokenizer import Tokenizer, from_metadata
from ggq.runtime.tokenizer._pretokenizers import PRETOKENIZERS
from ggq.runtime.tokenizer._vocabulary import TYPES_KEY, TokenType
from ggq.runtime.tokenizer.bpe import MERGES_KEY, PRE_KEY, merge_pairs
from ggq.strings import StringArray

ADDED_SCORE, HOLE_SCORE = -1000.0, -10000.0
SPACE = "▁"
SPACE_PREFIX_KEY = "tokenizer.ggml.add_space_prefix"


def write_tokenizer(metadata: Metadata, out_dir: Path) -> None:
    """Write the tokenizer files into `out_dir`, and the token numbers into its config.json.

    Raises TokenizerError for what these files cannot hold.
    """
    model = metadata.require("tokenizer.ggml.model", str)
    tokenizer = from_metadata(metadata)
    types = _types(metadata, tokenizer.n_vocab)
    _warn_of_lookalikes(tokenizer.vocabulary.tokens, types)
    config = _tokenizer_config(metadata, tokenizer)
    if model == "llama":
        added = _write_sentencepiece(out_dir / "tokenizer.model", metadata, tokenizer, types)
        config |= {"tokenizer_class": _class_name(metadata), "added_tokens_decoder": added}
    elif model == "gpt2":
        content = _tokenizer_json(metadata, tokenizer, types)
        text = json.dumps(content, ensure_ascii=False)  # indenting it takes seconds
        (out_dir / "tokenizer.json").write_text(text, encoding="utf-8")
        config |= {"tokenizer_class": "PreTrainedTokenizerFast"}
    else:
        raise TokenizerError(f"a tokenizer of model {model!r} cannot be exported")
    _write_json(out_dir / "tokenizer_config.json", config)
    _add_ids(metadata, out_dir / "config.json")


def _types(metadata: Metadata, n_vocab: int) -> list[int]:
    """Types as the file has them, without the corrections that the runtime makes."""
    if TYPES_KEY not in metadata:
        return [TokenType.NORMAL] * n_vocab
    types: list[int] = metadata[TYPES_KEY][:n_vocab].tolist()
    return types


def _tokenizer_config(metadata: Metadata, tokenizer: Tokenizer) -> Json:
    config: Json = {"clean_up_tokenization_spaces": False}
    for role, key in ADD_KEYS.items():
        if key in metadata:
            config[f"add_{role}_token"] = metadata.require(key, bool)
    if SPACE_PREFIX_KEY in metadata:
        config["add_prefix_space"] = metadata.require(SPACE_PREFIX_KEY, bool)
    for role, key in ID_KEYS.items():
        if key in metadata and role in tokenizer.vocabulary.roles:
            if role in ROLES:
                text = tokenizer.token_text(tokenizer.vocabulary.roles[role])
                config[f"{role}_token"] = text
            else:
                logging.getLogger("ggq").warning("%s has no place in a model directory", key)
    template = metadata.get_str(TEMPLATE_KEY, "")
    named = {
        key.removeprefix(f"{TEMPLATE_KEY}."): metadata.require(key, str)
        for key in metadata
        if key.startswith(f"{TEMPLATE_KEY}.")
    }
    if named:
        choices = ({"default": template} if template else {}) | named
        config["chat_template"] = [{"name": k, "template": v} for k, v in choices.items()]
    elif template:
        config["chat_template"] = template
    return config


def _tokenizer_json(metadata: Metadata, tokenizer: Tokenizer, types: list[int]) -> Json:
    pre = PRETOKENIZERS[metadata.get_str(PRE_KEY, "default")]
    if not pre.byte_level:
        raise TokenizerError(f"a tokenizer with {PRE_KEY} {metadata[PRE_KEY]!r} cannot be exported")
    vocab: dict[str, int] = {}
    added: list[Json] = []
    for token, (text, kind) in enumerate(zip(tokenizer.vocabulary.tokens, types, strict=True)):
        if kind == TokenType.UNUSED and text == f"[PAD{token}]":
            continue
        if kind in (TokenType.CONTROL, TokenType.USER_DEFINED):
            added.append({"id": token, **_added(text, kind)})
        elif kind != TokenType.NORMAL:
            raise _impossible(token, text, kind)
        vocab[text] = token
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": pre.ignore_merges,
        "vocab": vocab,
        "merges": merge_pairs(metadata.require(MERGES_KEY, StringArray).tolist()),
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": published_steps(pre),
        "post_processor": _post_processor(tokenizer),
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True},
        "model": model,
    }


def _added(text: str, kind: int) -> Json:
    off = dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
    # Converters read tokens back that are not normalized, which takes "é" for a byte.
    normalized = not text.isascii()
    return {
        "content": text,
        **off,
        "normalized": normalized,
        "special": kind == TokenType.CONTROL,
    }


def _warn_of_lookalikes(texts: list[str], types: list[int]) -> None:
    """Tell which user-defined tokens will be taken for control tokens."""
    user = [t for t, kind in zip(texts, types, strict=True) if kind == TokenType.USER_DEFINED]
    if found := list(filter(looks_special, user)):
        logging.getLogger("ggq").warning(
            "%d tokens such as %r look like control tokens, and will be converted to such",
            len(found),
            found[0],
        )


def _post_processor(tokenizer: Tokenizer) -> Json | None:
    """What puts BOS and EOS around a text; None if nothing does."""
    bos = tokenizer.bos if tokenizer.add_bos else None
    eos = tokenizer.eos if tokenizer.add_eos else None
    if bos is None and eos is None:
        return None
    used = {tokenizer.token_text(token): token for token in (bos, eos) if token is not None}

    def around(*sequences: str) -> list[Json]:
        parts = [{"Sequence": {"id": s, "type_id": n}} for n, s in enumerate(sequences)]
        ends = [
            [] if token is None else [{"SpecialToken": {"id": text, "type_id": 0}}]
            for token, text in (
                (t, "" if t is None else tokenizer.token_text(t)) for t in (bos, eos)
            )
        ]
        return [*ends[0], *parts, *ends[1]]

    special = {text: {"id": text, "ids": [token], "tokens": [text]} for text, token in used.items()}
    return {
        "type": "TemplateProcessing",
        "single": around("A"),
        "pair": around("A", "B"),
        "special_tokens": special,
    }


def _write_sentencepiece(
    path: Path, metadata: Metadata, tokenizer: Tokenizer, types: list[int]
) -> dict[str, Json]:
    """Write the model and give the tokens that tokenizer_config.json has to hold."""
    texts = tokenizer.vocabulary.tokens
    scores: list[float] = tokenizer.vocabulary.scores().tolist()
    n_pieces = len(texts)
    while n_pieces and _is_hole(n_pieces - 1, texts, types, scores):
        n_pieces -= 1
    pieces: list[tuple[str, float, int]] = []
    added: dict[str, Json] = {}
    for token in range(n_pieces):
        text, score, kind = texts[token], scores[token], types[token]
        if kind not in range(1, 7):
            raise _impossible(token, text, kind)
        if kind in (TokenType.CONTROL, TokenType.USER_DEFINED) and score == ADDED_SCORE:
            added[str(token)] = _added(text, kind)
        elif kind == TokenType.USER_DEFINED:
            raise _impossible(token, text, kind)
        marked = text.replace(" ", SPACE)
        if kind == TokenType.USER_DEFINED and marked not in tokenizer.vocabulary.ids:
            text = marked
        pieces.append((text, score, kind))
    unk = tokenizer.vocabulary.roles["unk"]
    if unk >= n_pieces or (types[unk] != TokenType.UNKNOWN and str(unk) not in added):
        raise _impossible(unk, texts[unk], types[unk])
    pieces[unk] = (*pieces[unk][:2], TokenType.UNKNOWN)
    for token, (text, _, kind) in enumerate(pieces):
        if kind == TokenType.UNKNOWN and token != unk:
            raise _impossible(token, text, kind)
    path.write_bytes(serialize(pieces, tokenizer.space_prefix, tokenizer.vocabulary.roles))
    return added


def _is_hole(token: int, texts: list[str], types: list[int], scores: list[float]) -> bool:
    hole = (f"[PAD{token}]", TokenType.UNUSED, HOLE_SCORE)
    return (texts[token], types[token], scores[token]) == hole


def _impossible(token: int, text: str, kind: int) -> TokenizerError:
    names = {int(known): known.name for known in TokenType}
    return TokenizerError(
        f"token {token} {text!r} of type {names.get(kind, kind)} "
        "has no place in the tokenizer files of a model directory"
    )


def _class_name(metadata: Metadata) -> str:
    gemma = metadata.get_str("general.architecture", "").startswith("gemma")
    return "GemmaTokenizer" if gemma else "LlamaTokenizer"


def _add_ids(metadata: Metadata, path: Path) -> None:
    """Add the numbers of the special tokens to config.json, where converters look for them."""
    if not path.is_file():
        return
    config = read_json(path)
    for role, key in ID_KEYS.items():
        if role in ROLES and key in metadata:
            config[f"{role}_token_id"] = metadata.require(key, int)
    _write_json(path, config)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
