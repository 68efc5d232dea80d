"""Tokens and merges of a tokenizer.json of type BPE.

Facts: llama.cpp conversion/base.py `get_vocab_base` and gguf-py/gguf/vocab.py `LlamaHfVocab`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from ggq.convert.sources.json_file import read_json
from ggq.convert.vocab.pre import pre_name
from ggq.convert.vocab.special import Entry, Json, optional_json, text_of
from ggq.convert.vocab.tokens import TokenTable, looks_special
from ggq.errors import TokenizerError
from ggq.runtime.tokenizer._vocabulary import TokenType
from ggq.runtime.tokenizer.bpe import MERGES_KEY
from ggq.spec import ValueType

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPACE = "▁"
ADDED_SCORE = -1000.0
_BYTE = re.compile("<0x[0-9A-Fa-f]{2}>")


class BpeFile:
    """A tokenizer.json of type BPE and what tokenizer_config.json says about it."""

    def __init__(self, model_dir: Path) -> None:
        path = model_dir / "tokenizer.json"
        self.content: Json = read_json(path)
        self.model: Json = self.content.get("model") or {}
        if self.model.get("type", "BPE") != "BPE" or not isinstance(self.model.get("vocab"), dict):
            raise TokenizerError(
                f"{path}: the tokenizer is of type {self.model.get('type')!r}; known is BPE"
            )
        self._config = optional_json(model_dir / "tokenizer_config.json")
        self._model_dir = model_dir
        self._tokenizer = _load(path)
        self._add_configured_tokens()

    @property
    def is_sentencepiece(self) -> bool:
        """Whether it is a sentencepiece model in another form."""
        decoder = (self.content.get("decoder") or {}).get("type")
        return bool(self.model.get("byte_fallback")) and decoder == "Sequence"

    def metadata(self, config: Json) -> list[Entry]:
        """(key, type, value) of model, pre-tokenizer, token table and merges.

        Raises TokenizerError.
        """
        table = self._table(config.get("vocab_size"))
        return [
            ("tokenizer.ggml.model", ValueType.STRING, "gpt2"),
            ("tokenizer.ggml.pre", ValueType.STRING, pre_name(self.content, self._has_bos)),
            *table.entries(with_scores=False),
            (MERGES_KEY, ValueType.ARRAY, self._merges(), ValueType.STRING),
        ]

    def sentencepiece_metadata(self, config: Json) -> tuple[list[Entry], int]:
        """The same as a sentencepiece vocabulary, and its size; scores are not known."""
        n_base = self._tokenizer.get_vocab_size(with_added_tokens=False)
        added = self._tokenizer.get_added_tokens_decoder()
        texts = self._texts()
        n_vocab = max([n_base, *(token + 1 for token in added)])
        n_vocab = max(n_vocab, config.get("vocab_size") or 0)
        table = TokenTable.of_holes(n_vocab, ADDED_SCORE)
        special = self._special_texts()
        for token, text in texts.items():
            kind = TokenType.NORMAL if token < n_base else TokenType.USER_DEFINED
            if text in special:
                kind = TokenType.CONTROL
            if _BYTE.fullmatch(text) and token < n_base:
                kind = TokenType.BYTE
            table.set(token, text, kind, ADDED_SCORE)
        entries: list[Entry] = [
            ("tokenizer.ggml.model", ValueType.STRING, "llama"),
            ("tokenizer.ggml.pre", ValueType.STRING, "default"),
            *table.entries(with_scores=True),
        ]
        return entries, n_vocab

    @property
    def _has_bos(self) -> bool:
        model_config = optional_json(self._model_dir / "config.json")
        return bool(self._config.get("bos_token")) or model_config.get("bos_token_id") is not None

    def _texts(self) -> dict[int, str]:
        return {token: text for text, token in self._tokenizer.get_vocab().items()}

    def _special_texts(self) -> set[str]:
        """Texts of the tokens that have a role."""
        roles = [text_of(token) for key, token in self._config.items() if key.endswith("_token")]
        more = map(text_of, self._config.get("additional_special_tokens") or [])
        return {text for text in [*roles, *more] if text}

    def _add_configured_tokens(self) -> None:
        """Add what only tokenizer_config.json has, as transformers does."""
        from tokenizers import AddedToken

        known = self._tokenizer.get_added_tokens_decoder().values()
        contents = {token.content for token in known}
        special = self._special_texts()
        decoder = self._config.get("added_tokens_decoder") or {}
        flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
        for number, given in decoder.items():
            text = text_of(given)
            if text is None or text in contents:
                continue
            options = {flag: bool(given[flag]) for flag in flags if flag in given}
            options["special"] = options.get("special", False) or text in special
            self._tokenizer.add_tokens([AddedToken(text, **options)])
            token = self._tokenizer.token_to_id(text)
            if str(token) != str(number):
                raise TokenizerError(
                    f"tokenizer_config.json: added token {text!r} has number {number}, "
                    f"but tokenizer.json leaves {token} for it"
                )

    def _table(self, n_vocab: int | None) -> TokenTable:
        texts = self._texts()
        n_vocab = n_vocab or len(texts)
        if max(texts, default=0) >= n_vocab:
            raise TokenizerError(
                f"tokenizer.json has a token {max(texts)}, "
                f"but config.json says there are {n_vocab:,} tokens"
            )
        table = TokenTable.of_holes(n_vocab)
        added = self._tokenizer.get_added_tokens_decoder()
        for token, text in texts.items():
            given = added.get(token)
            if given is None:
                is_byte = self.model.get("byte_fallback") and _BYTE.fullmatch(text)
                table.set(token, text, TokenType.BYTE if is_byte else TokenType.NORMAL)
                continue
            if not given.normalized:
                text = self._read_back(text)
            if given.special or looks_special(text):
                table.set(token, text, TokenType.CONTROL)
            else:
                table.set(token, text.replace(SPACE, " "), TokenType.USER_DEFINED)
        return table

    def _read_back(self, text: str) -> str:
        tokens = self._tokenizer.encode(text, add_special_tokens=False).ids
        return str(self._tokenizer.decode(tokens, skip_special_tokens=False))

    def _merges(self) -> list[str]:
        merges = self.model.get("merges") or _merges_file(self._model_dir / "merges.txt")
        if not merges:
            raise TokenizerError("tokenizer.json has no merges")
        if isinstance(merges[0], str):
            return list(merges)
        # A space inside a part would end it; byte-level letters have "Ġ" for it.
        return [" ".join(part.replace(" ", "Ġ") for part in pair) for pair in merges]


def _load(path: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:
        raise TokenizerError(f"{path}: the tokenizer cannot be loaded: {error}") from None


def _merges_file(path: Path) -> list[str]:
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    pairs = [line.split() for line in lines[1 if lines[:1] and lines[0].startswith("#") else 0 :]]
    return [" ".join(pair) for pair in pairs if len(pair) == 2]
