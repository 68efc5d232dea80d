"""SPM for words of megabytes, such as a run of spaces or base64, at 20 times the speed of a heap.

Such a word is cut where no token can reach across, and what stays long goes to the tokenizers
library, whose BPE does the same merges when every merge has a rank of its own.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ggq.runtime.tokenizer._vocabulary import TokenType, Vocabulary, unicode_only

if TYPE_CHECKING:
    from tokenizers.models import BPE

# From here on a word is worth the time that setting this up takes.
LONG_WORD = 1 << 16


class LongWords:
    """`costs` [V]: the merge into the token with the lowest cost comes first."""

    def __init__(self, vocabulary: Vocabulary, costs: list[float]) -> None:
        self._vocabulary = vocabulary
        self._costs = costs

    def parts(self, word: str) -> list[str]:
        """`word` cut between every two characters that no token has side by side."""
        pairs = _pairs(word)
        at = np.minimum(np.searchsorted(self._joined, pairs), len(self._joined) - 1)
        cuts = (np.flatnonzero(self._joined[at] != pairs) + 1).tolist()
        return [word[i:j] for i, j in zip([0, *cuts], [*cuts, len(word)], strict=True)]

    def encode(self, word: str) -> list[int] | None:
        """Tokens of `word`, or None if the costs do not rank the merges."""
        if self._bpe is None:
            return None
        return [token.id for token in self._bpe.tokenize(word)]

    @cached_property
    def _joined(self) -> npt.NDArray[np.uint64]:
        joined = np.unique(_pairs("\n".join(self._vocabulary.tokens)))
        return joined if len(joined) else np.zeros(1, np.uint64)

    @cached_property
    def _bpe(self) -> BPE | None:
        from tokenizers.models import BPE

        ids = unicode_only(self._vocabulary.ids)
        if any(f"<0x{byte:02X}>" not in ids for byte in range(256)):
            return None
        merges: list[tuple[str, str]] = []
        last_cost, last_is_run = math.nan, False
        for token in self._ranked():
            text = self._vocabulary.tokens[token]
            cuts = [at for at in range(1, len(text)) if text[:at] in ids and text[at:] in ids]
            if not cuts:
                continue
            # Among runs of one character the longest first is the leftmost first.
            if self._costs[token] == last_cost and not (_is_run(text) and last_is_run):
                return None
            last_cost, last_is_run = self._costs[token], _is_run(text)
            merges += [(text[:at], text[at:]) for at in cuts]
        return BPE(ids, merges, byte_fallback=True)

    def _ranked(self) -> list[int]:
        """Normal tokens by cost, of equal ones the longest first."""
        normal = np.flatnonzero(self._vocabulary.types == TokenType.NORMAL).tolist()
        costs, tokens = self._costs, self._vocabulary.tokens
        return sorted(normal, key=lambda token: (costs[token], -len(tokens[token])))


def _pairs(text: str) -> npt.NDArray[np.uint64]:
    """u64 [len - 1]: every two neighbouring characters as one number."""
    codes: npt.NDArray[Any] = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
    wide = codes.astype(np.uint64)
    return (wide[:-1] << np.uint64(32)) | wide[1:]


def _is_run(text: str) -> bool:
    return text == text[0] * len(text)
