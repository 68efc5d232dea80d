"""Sequences of tokens cut from documents, balanced over domains, the same for the same seed."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ggq.convert.calibrate.corpus.documents import (
    SHARES,
    Conversation,
    Document,
    documents,
    plain,
)
from ggq.errors import CalibrationTextError, TemplateError

# Where a passage may begin: at a line with text, or behind the end of a sentence.
START = re.compile(
    r"^(?=[ \t]*\S)|(?<=[.!?]) +(?=[^\W\d_a-z])|(?<=[。！？])(?=[^」”\n])", re.MULTILINE
)
# Steps of this part of a text, modulo its length, never come close to an earlier place early on
# (the golden ratio is the number hardest to approach by fractions).
GOLDEN = (5**0.5 - 1) / 2
CHARACTERS_PER_TOKEN = 5
# Texts longer than this need not be counted to know that they fill a sequence.
CHARACTERS_PER_TOKEN_AT_MOST = 64
# Tokens near a cut may be others than in the whole text.
CUT_MARGIN_TOKENS = 16


class Tokenizer(Protocol):
    """What is needed of ggq.runtime.tokenizer.Tokenizer."""

    add_bos: bool

    @property
    def bos(self) -> int | None:
        """The token that begins a text."""

    def encode(
        self, text: str, *, add_special: bool = True, parse_special: bool = True
    ) -> list[int]:
        """Tokens of `text`."""


class ChatTemplate(Protocol):
    """What is needed of ggq.runtime.chat.Chat."""

    @property
    def available(self) -> bool:
        """Whether the model has a template."""

    def render(self, messages: Sequence[dict[str, Any]], add_generation_prompt: bool = True) -> str:
        """The text of a conversation."""


def sample(
    tokenizer: Tokenizer,
    n_tokens: int,
    n_ctx: int,
    seed: int = 0,
    *,
    texts: Sequence[Document] | None = None,
    chat: ChatTemplate | None = None,
) -> npt.NDArray[np.int32]:
    """i32 [n_sequences, n_ctx]: as many sequences as `n_tokens` need, from what ships or `texts`.

    Sequence i is of the domain `domains_of(n_sequences)[i]`, so that any number of first sequences
    is balanced; user files go by their length. Passages begin at a line or sentence, and each
    sequence with BOS where the model wants one. Conversations are written with `chat`, the
    model's template, and as plain text without one or when it refuses them.
    Raises CalibrationTextError when the texts together are shorter than one sequence.
    """
    texts = documents() if texts is None else texts
    n_sequences = max(1, -(-n_tokens // n_ctx))
    pools = {
        domain: _Pool([one for one in texts if one.domain == domain], seed)
        for domain in dict.fromkeys(one.domain for one in texts)
    }
    shares = {domain: SHARES.get(domain, 1.0) for domain in pools}
    cutter = _Cutter(tokenizer, chat)
    for domain in pools:
        cutter.check_length([one for one in texts if one.domain == domain], n_ctx)
    rows = [cutter.sequence(pools[domain], n_ctx) for domain in domains_of(n_sequences, shares)]
    return np.array(rows, dtype=np.int32)


def domains_of(n_sequences: int, shares: Mapping[str, float] = SHARES) -> list[str]:
    """The domain of each of `n_sequences` sequences: always the one furthest behind its share."""
    total = sum(shares.values())
    owed = dict.fromkeys(shares, 0.0)
    chosen = []
    for _ in range(n_sequences):
        for domain, share in shares.items():
            owed[domain] += share / total
        chosen.append(max(owed, key=owed.__getitem__))
        owed[chosen[-1]] -= 1
    return chosen


class _Pool:
    """The documents of one domain, which hands out places in them, spread over their length."""

    def __init__(self, texts: Sequence[Document], seed: int) -> None:
        self._texts = texts
        total = sum(len(one.text) for one in texts)
        self._shares = [len(one.text) / total for one in texts]
        self._owed = [0.0] * len(texts)
        self._places = [random.Random(f"{seed} {one.name}").random() for one in texts]

    def next(self) -> tuple[Document, float]:
        """A document, chosen by its length, and a place in it from 0 to 1."""
        self._owed = [owed + share for owed, share in zip(self._owed, self._shares, strict=True)]
        chosen = self._owed.index(max(self._owed))
        self._owed[chosen] -= 1
        self._places[chosen] = (self._places[chosen] + GOLDEN) % 1
        return self._texts[chosen], self._places[chosen]


class _Cutter:
    """Makes sequences of tokens out of places in documents."""

    def __init__(self, tokenizer: Tokenizer, chat: ChatTemplate | None) -> None:
        self._tokenizer = tokenizer
        self._chat = chat if chat is not None and chat.available else None
        self._begin: list[int] = []
        if tokenizer.add_bos and tokenizer.bos is not None:
            self._begin = [tokenizer.bos]
        self._separator = self._encode("\n\n")

    def check_length(self, texts: Sequence[Document], n_ctx: int) -> None:
        """Raises CalibrationTextError when the texts together have fewer than `n_ctx` tokens."""
        if sum(len(one.text) for one in texts) > CHARACTERS_PER_TOKEN_AT_MOST * n_ctx:
            return
        n_tokens = sum(len(self._encode(one.text)) for one in texts)
        if n_tokens < n_ctx:
            names = ", ".join(one.name for one in texts)
            raise CalibrationTextError(
                f"{names}: {n_tokens:,} tokens of text, fewer than the {n_ctx:,} of one sequence; "
                "give more text or a shorter context"
            )

    def sequence(self, pool: _Pool, n_ctx: int) -> list[int]:
        """`n_ctx` tokens: one passage, or several where a text ends or is made of chats."""
        tokens = list(self._begin)
        while len(tokens) < n_ctx:
            document, place = pool.next()
            if len(tokens) > len(self._begin) and not (self._chat and document.conversations):
                tokens += self._separator
            tokens += self._passage(document, place, n_ctx - len(tokens))
        return tokens[:n_ctx]

    def _passage(self, document: Document, place: float, n_tokens: int) -> list[int]:
        """Tokens from `place` on, at most `n_tokens` or one conversation."""
        if document.conversations:
            return self._conversation(
                document.conversations[int(place * len(document.conversations))]
            )
        text = document.text
        begin = int(place * len(text))
        found = START.search(text, begin) or START.search(text)
        begin = found.end() if found else 0
        n_characters = CHARACTERS_PER_TOKEN * (n_tokens + CUT_MARGIN_TOKENS)
        while True:
            tokens = self._encode(text[begin : begin + n_characters])
            if begin + n_characters >= len(text) or len(tokens) >= n_tokens + CUT_MARGIN_TOKENS:
                return tokens[:n_tokens]
            n_characters *= 2

    def _conversation(self, conversation: Conversation) -> list[int]:
        if self._chat is None:
            return self._encode(plain(conversation))
        try:
            text = self._chat.render(conversation, add_generation_prompt=False)
        except TemplateError:
            return self._encode(plain(conversation))
        tokens = self._tokenizer.encode(text, add_special=False)
        return tokens[1:] if self._begin and tokens[:1] == self._begin else tokens

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special=False, parse_special=False)
