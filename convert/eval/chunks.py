"""Texts as chunks of consecutive tokens, cut and scored as llama-perplexity does.

A text is tokenized whole and cut into chunks of `n_ctx` tokens; a rest is dropped. The model reads
each chunk on its own, with the first token replaced by BOS where the vocabulary wants one, and is
asked for every token of the second half but the first.
Source: llama.cpp tools/perplexity/perplexity.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ggq.errors import UsageError

if TYPE_CHECKING:
    from ggq.runtime.tokenizer import Tokenizer

I32 = npt.NDArray[np.int32]
LEAST_CONTEXT = 6  # two tokens are scored


@dataclass(frozen=True)
class Chunks:
    """`tokens` i32 [n, n_ctx] as the text has them; `bos` replaces the first of each, if any."""

    tokens: I32
    bos: int | None = None
    domain: str = "text"

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def n_ctx(self) -> int:
        """Tokens of a chunk."""
        return int(self.tokens.shape[1])

    @property
    def first(self) -> int:
        """The first position whose logits are needed."""
        return self.n_ctx // 2

    @property
    def scored(self) -> int:
        """Tokens of a chunk that are asked for."""
        return self.n_ctx - 1 - self.first

    def fed(self, number: int) -> I32:
        """i32 [n_ctx - 1]: what the model reads of a chunk; its last token is only asked for."""
        ids = self.tokens[number, :-1].copy()
        if self.bos is not None:
            ids[0] = self.bos
        return ids

    def targets(self, number: int) -> I32:
        """i32 [scored]: the tokens asked for."""
        return self.tokens[number, self.first + 1 :]


def chunks_of(
    tokenizer: Tokenizer, text: str, n_ctx: int = 512, limit: int = 0, domain: str = "text"
) -> Chunks:
    """The first `limit` chunks of a text, 0: all. Raises UsageError if it is too short."""
    if n_ctx < LEAST_CONTEXT:
        raise UsageError(f"a context of {n_ctx} tokens; wanted at least {LEAST_CONTEXT} (-c)")
    ids = np.array(tokenizer.encode(text, add_special=True, parse_special=False), np.int32)
    count = len(ids) // n_ctx
    if len(ids) < 2 * n_ctx:
        raise UsageError(
            f"{domain} has {len(ids)} tokens; wanted at least {2 * n_ctx}, two chunks of "
            f"{n_ctx}: name a longer text or a smaller context (-c)"
        )
    count = min(count, limit) if limit else count
    bos = tokenizer.bos if tokenizer.add_bos else None
    return Chunks(ids[: count * n_ctx].reshape(count, n_ctx), bos, domain)
