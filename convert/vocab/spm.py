"""Tokens of a sentencepiece tokenizer.model, with those that the JSON files beside it add.

Facts: llama.cpp conversion/base.py `_create_vocab_sentencepiece`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ggq.convert.vocab.special import Entry, optional_json, text_of
from ggq.convert.vocab.tokens import TokenTable, looks_special
from ggq.errors import TokenizerError
from ggq.runtime.tokenizer._vocabulary import TokenType
from ggq.spec import ValueType

ADDED_SCORE = -1000.0
HOLE_SCORE = -10000.0
SPACE = "▁"


def spm_metadata(model_dir: Path, config: dict[str, Any]) -> tuple[list[Entry], int]:
    """(key, type, value) of the token table, and the number of tokens. Raises TokenizerError."""
    processor = _load(model_dir / "tokenizer.model")
    n_pieces = processor.get_piece_size()
    n_vocab = config.get("vocab_size_per_layer_input") or config.get("vocab_size") or n_pieces
    table = TokenTable.of_holes(n_vocab, HOLE_SCORE)
    pieces = list(range(min(n_pieces, n_vocab)))
    table.texts[: len(pieces)] = processor.id_to_piece(pieces)
    table.scores[: len(pieces)] = processor.get_score(pieces)
    table.types[: len(pieces)] = [TokenType.NORMAL] * len(pieces)
    kinds = {
        TokenType.BYTE: processor.is_byte,
        TokenType.UNUSED: processor.is_unused,
        TokenType.CONTROL: processor.is_control,
        TokenType.UNKNOWN: processor.is_unknown,
    }
    for kind, is_kind in kinds.items():
        for piece, yes in zip(pieces, is_kind(pieces), strict=True):
            if yes:
                table.types[piece] = kind
    for token, text, kind in _added(model_dir):
        if token < n_vocab:
            table.set(token, text, kind, ADDED_SCORE)
        else:
            logging.getLogger("ggq").warning(
                "token %d %r is left out: the model has %d tokens", token, text, n_vocab
            )
    entries: list[Entry] = [
        ("tokenizer.ggml.model", ValueType.STRING, "llama"),
        ("tokenizer.ggml.pre", ValueType.STRING, "default"),
        *table.entries(with_scores=True),
    ]
    return entries, n_vocab


def _load(path: Path) -> Any:
    from sentencepiece import SentencePieceProcessor

    processor = SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(path.read_bytes())
    except RuntimeError as error:
        raise TokenizerError(f"{path}: this is not a sentencepiece model ({error})") from None
    return processor


def _added(model_dir: Path) -> Iterator[tuple[int, str, TokenType]]:
    """Tokens of the JSON files in the order they take effect."""
    for text, token in optional_json(model_dir / "added_tokens.json").items():
        yield _number(token), text, TokenType.USER_DEFINED
    decoder = optional_json(model_dir / "tokenizer_config.json").get("added_tokens_decoder", {})
    for token, given in decoder.items():
        content = text_of(given)
        if content is None:
            raise TokenizerError(f"tokenizer_config.json: added token {token} has no content")
        if given.get("special") or looks_special(content):
            yield _number(token), content, TokenType.CONTROL
        else:
            yield _number(token), content.replace(SPACE, " "), TokenType.USER_DEFINED


def _number(token: Any) -> int:
    try:
        number = int(token)
    except (TypeError, ValueError):
        number = -1
    if number < 0:
        raise TokenizerError(f"an added token has the number {token!r}")
    return number
