"""A token table on its way into metadata."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ggq.convert.vocab.special import Entry
from ggq.runtime.tokenizer._vocabulary import SCORES_KEY, TOKENS_KEY, TYPES_KEY, TokenType
from ggq.spec import ValueType

# Texts that some models do not mark as special although they are.
# Source: llama.cpp conversion/base.py `does_token_look_special`.
_SPECIAL_TEXT = re.compile(
    r"<\|.*\|>|<｜.*｜>|<unused.*>|<pad>|<mask>|<2mass>|\[@BOS@\]", re.DOTALL
)


def looks_special(text: str) -> bool:
    """Whether `text` is written like a control token."""
    return _SPECIAL_TEXT.fullmatch(text) is not None


@dataclass
class TokenTable:
    """Texts, types and scores by token number."""

    texts: list[str]
    types: list[int]
    scores: list[float]

    @classmethod
    def of_holes(cls, n: int, score: float = 0.0) -> TokenTable:
        """`n` tokens that the vocabulary does not have."""
        names = [f"[PAD{token}]" for token in range(n)]
        return cls(names, [TokenType.UNUSED] * n, [score] * n)

    def set(self, token: int, text: str, kind: TokenType, score: float = 0.0) -> None:
        """Give a token its text, type and score."""
        self.texts[token], self.types[token], self.scores[token] = text, kind, score

    def entries(self, with_scores: bool) -> list[Entry]:
        """(key, type, value, item type) of the table."""
        texts: Sequence[str] = self.texts
        entries: list[Entry] = [(TOKENS_KEY, ValueType.ARRAY, texts, ValueType.STRING)]
        if with_scores:
            entries.append((SCORES_KEY, ValueType.ARRAY, self.scores, ValueType.F32))
        types = [int(kind) for kind in self.types]
        return [*entries, (TYPES_KEY, ValueType.ARRAY, types, ValueType.I32)]
