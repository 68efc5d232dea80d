"""Byte-level BPE: cut into words, write each byte as a letter, merge the best ranked pairs.

Merging is done by the tokenizers library, set up from the merges in the file when it is first
needed; short texts do without it.
Facts: llama.cpp src/llama-vocab.cpp `llm_tokenizer_bpe_session`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from ggq.errors import TokenizerError
from ggq.metadata import Metadata
from ggq.runtime.tokenizer._base import Tokenizer
from ggq.runtime.tokenizer._byte_level import BYTE_OF_LETTER, LETTERS
from ggq.runtime.tokenizer._pretokenizers import PRETOKENIZERS, PreTokenizer
from ggq.runtime.tokenizer._short_texts import ShortTexts
from ggq.runtime.tokenizer._vocabulary import unicode_only
from ggq.strings import StringArray

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Merger

MERGES_KEY = "tokenizer.ggml.merges"
PRE_KEY = "tokenizer.ggml.pre"
SPACE = "▁"


class Bpe(Tokenizer):
    """Tokenizer of GPT-2, Llama 3, Qwen and most others since."""

    models = ("gpt2",)
    default_roles: ClassVar = {"bos": 11, "eos": 11}
    fixed_pre: ClassVar = ""

    def __init__(self, metadata: Metadata) -> None:
        self._pre = self._pretokenizer(metadata)
        super().__init__(metadata)
        named = "tokenizer.ggml.bos_token_id" in metadata
        if not self._pre.has_bos and not named:
            self.vocabulary.roles.pop("bos", None)
        self.add_bos = metadata.get_bool("tokenizer.ggml.add_bos_token", self._pre.add_bos)
        self.add_eos = metadata.get_bool("tokenizer.ggml.add_eos_token", False)
        # Some files of this family say no, but the models want it; llama.cpp adds it too.
        self.add_bos |= self._pre.newline_tokens

    def _pretokenizer(self, metadata: Metadata) -> PreTokenizer:
        pre = self.fixed_pre or metadata.get_str(PRE_KEY, "")
        if not pre:
            logging.getLogger("ggq").warning(
                "%s is missing: words are cut the default way, which may not be the model's",
                PRE_KEY,
            )
        try:
            return PRETOKENIZERS[pre or "default"]
        except KeyError:
            raise TokenizerError(
                f"{PRE_KEY} is {pre!r}, which is not known; known: {', '.join(PRETOKENIZERS)}"
            ) from None

    def _encode_text(self, text: str, after_special: bool) -> list[int]:
        if self._pre.byte_level:
            return self._merge(text)
        text = text.replace(" ", SPACE)
        if not self._pre.newline_tokens:
            return self._merge(text)
        tokens: list[int] = []
        for part in re.split("(\n+)", text):
            whole = self.vocabulary.ids.get(part) if part[:1] == "\n" else None
            tokens += self._merge(part) if whole is None else [whole]
        return tokens

    def _normal_bytes(self, token: int) -> bytes:
        text = self.vocabulary.tokens[token]
        if not self._pre.byte_level:
            return self.vocabulary.raw(token).replace(SPACE.encode(), b" ")
        try:
            return bytes([BYTE_OF_LETTER[letter] for letter in text])
        except KeyError:
            return self.vocabulary.raw(token)

    def _merge(self, text: str) -> list[int]:
        if "_merger" not in vars(self) and self._pre.byte_level:
            short = self._short_texts.encode(text)
            if short is not None:
                return short
        merger, helpers = self._merger
        tokens: list[int] = merger.encode(text, add_special_tokens=False).ids if text else []
        if not helpers:
            return tokens
        return [part for token in tokens for part in helpers.get(token, (token,))]

    @cached_property
    def _short_texts(self) -> ShortTexts:
        merges = self.vocabulary.metadata.require(MERGES_KEY, StringArray)
        splits, whole = self._pre.splits, self._pre.ignore_merges
        return ShortTexts(merges, self.vocabulary.ids, splits, whole, self._in_bytes)

    @cached_property
    def _merger(self) -> tuple[Merger, dict[int, list[int]]]:
        """The library's tokenizer, and what its tokens beyond the vocabulary stand for."""
        from tokenizers import Regex, Tokenizer, pre_tokenizers
        from tokenizers.models import BPE

        pairs = merge_pairs(self.vocabulary.metadata.require(MERGES_KEY, StringArray).tolist())
        ids, helpers = self._with_helpers(LETTERS if self._pre.byte_level else "")
        options = {
            "ignore_merges": self._pre.ignore_merges,
            "byte_fallback": not self._pre.byte_level,
        }
        try:
            model = BPE(ids, pairs, **options)
        except Exception:
            # A merge of what is no token: allowed in the file, but not in the library.
            parts = {text for left, right in pairs for text in (left, right, left + right)}
            ids, helpers = self._with_helpers([*LETTERS, *sorted(parts - ids.keys())])
            model = BPE(ids, pairs, **options)
        merger = Tokenizer(model)
        steps: list[pre_tokenizers.PreTokenizer] = [
            pre_tokenizers.Split(Regex(regex), "isolated") for regex in self._pre.splits
        ]
        if self._pre.byte_level:
            steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
        merger.pre_tokenizer = pre_tokenizers.Sequence(steps)
        return merger, helpers

    def _with_helpers(self, needed: Iterable[str]) -> tuple[dict[str, int], dict[int, list[int]]]:
        """The vocabulary with the `needed` texts in it, and what the added ones stand for."""
        ids = unicode_only(self.vocabulary.ids)
        missing = [text for text in needed if text not in ids]
        numbers = range(self.n_vocab, self.n_vocab + len(missing))
        helpers = dict(zip(numbers, map(self._in_bytes, missing), strict=True))
        return ids | dict(zip(missing, numbers, strict=True)), helpers

    def _in_bytes(self, text: str) -> list[int]:
        """Tokens of the single bytes of `text`; bytes without a token are left out."""
        ids = self.vocabulary.ids
        if self._pre.byte_level:
            return [ids[letter] for letter in text if letter in ids]
        names = [f"<0x{byte:02X}>" for byte in text.encode("utf-8", "surrogateescape")]
        return [ids[name] for name in names if name in ids]


class Gemma4(Bpe):
    """Tokenizer of Gemma 4: BPE over letters, as in sentencepiece."""

    models = ("gemma4",)
    default_roles: ClassVar = {}
    fixed_pre = "gemma4"


def merge_pairs(merges: list[str]) -> list[tuple[str, str]]:
    """The two parts of each merge; a space parts them, but not one at the very beginning."""
    ends = [(merge, merge.find(" ", 1)) for merge in dict.fromkeys(merges)]
    return [(merge[:end], merge[end + 1 :]) for merge, end in ends if end > 0]
