"""SPM, the algorithm of sentencepiece BPE models: merge the neighbours with the best score first.

A space is "▁". What is left without a token is written as byte tokens.
Facts: llama.cpp src/llama-vocab.cpp `llm_tokenizer_spm_session`.
"""

from __future__ import annotations

import re
from functools import cached_property
from heapq import heapify, heappop, heappush
from typing import ClassVar

from ggq.metadata import Metadata
from ggq.runtime.tokenizer._base import Tokenizer
from ggq.runtime.tokenizer._long_words import LONG_WORD, LongWords

SPACE = "▁"
MAX_CACHED_LENGTH = 64
MAX_CACHED_WORDS = 1 << 16


class Spm(Tokenizer):
    """Tokenizer of Llama 2, Mistral 7B, Gemma 1 to 3 and others."""

    models = ("llama",)
    default_roles: ClassVar = {"bos": 1, "eos": 2, "unk": 0}

    def __init__(self, metadata: Metadata) -> None:
        super().__init__(metadata)
        self.space_prefix = metadata.get_bool("tokenizer.ggml.add_space_prefix", True)
        self.add_bos = metadata.get_bool("tokenizer.ggml.add_bos_token", True)
        self.add_eos = metadata.get_bool("tokenizer.ggml.add_eos_token", False)
        self._costs = (-self.vocabulary.scores()).tolist()
        self._cache: dict[str, list[int]] = {}

    def _encode_text(self, text: str, after_special: bool) -> list[int]:
        if self.space_prefix and after_special:
            text = " " + text
        tokens: list[int] = []
        for word in self._word_ends.split(text.replace(" ", SPACE)):
            if len(word) < LONG_WORD:
                tokens += self._cached(word)
                continue
            for part in self._long_words.parts(word):
                long = self._long_words.encode(part) if len(part) >= LONG_WORD else None
                tokens += self._cached(part) if long is None else long
        return tokens

    def _normal_bytes(self, token: int) -> bytes:
        return self.vocabulary.raw(token).replace(SPACE.encode(), b" ")

    @cached_property
    def _word_ends(self) -> re.Pattern[str]:
        """Where words end: before a "▁" after a character that no token has before a "▁".

        No merge crosses such a place, so the words can be tokenized one by one.
        """
        joined = "\n".join(token for token in self.vocabulary.tokens if SPACE in token[1:])
        inside = "".join(sorted({SPACE, *re.findall(f"(.){SPACE}", joined)}))
        return re.compile(f"(?<=[^{re.escape(inside)}])(?={SPACE})")

    @cached_property
    def _long_words(self) -> LongWords:
        return LongWords(self.vocabulary, self._costs)

    def _cached(self, word: str) -> list[int]:
        found = self._cache.get(word)
        if found is None:
            found = self._encode_word(word)
            if len(word) <= MAX_CACHED_LENGTH:
                if len(self._cache) >= MAX_CACHED_WORDS:
                    self._cache.clear()
                self._cache[word] = found
        return found

    def _encode_word(self, text: str) -> list[int]:
        ids, costs = self.vocabulary.ids, self._costs
        n = len(text)
        # ends[i]: where the piece that starts at i ends, 0 if none starts there.
        # befores[i]: where the piece before it starts.
        ends = list(range(1, n + 1))
        befores = list(range(-1, n))
        # (cost, start, middle, end) of two neighbours that are a token together.
        queue = []
        for i in range(n - 1):
            token = ids.get(text[i : i + 2])
            if token is not None:
                queue.append((costs[token], i, i + 1, i + 2))
        heapify(queue)
        while queue:
            _, start, middle, end = heappop(queue)
            if ends[start] != middle or ends[middle] != end:
                continue
            ends[start] = end
            ends[middle] = 0
            befores[end] = start
            if start:
                before = befores[start]
                token = ids.get(text[before:end])
                if token is not None:
                    heappush(queue, (costs[token], before, start, end))
            if end < n:
                after = ends[end]
                token = ids.get(text[start:after])
                if token is not None:
                    heappush(queue, (costs[token], start, end, after))
        tokens: list[int] = []
        start = 0
        while start < n:
            end = ends[start]
            token = ids.get(text[start:end])
            if token is None:
                tokens += map(self._byte_token, text[start:end].encode())
            else:
                tokens.append(token)
            start = end
        return tokens

    def _byte_token(self, byte: int) -> int:
        roles, ids = self.vocabulary.roles, self.vocabulary.ids
        plain = ids.get(chr(byte), roles["unk"]) if byte < 128 else roles["unk"]
        return ids.get(f"<0x{byte:02X}>", plain)
