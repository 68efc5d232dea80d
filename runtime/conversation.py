"""A conversation that goes on: each turn computes only what the cache does not hold yet."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from ggq.runtime.generation import ChatFormat, Chunk, Session, chat_prompt, stream
from ggq.runtime.sampler import Sampler
from ggq.runtime.timings import Timings
from ggq.runtime.tokenizer import Tokenizer


class Conversation:
    """The messages so far and the session that has read them."""

    def __init__(
        self,
        session: Session,
        tokenizer: Tokenizer,
        chat: ChatFormat,
        sampler: Sampler,
        system: str | None = None,
    ) -> None:
        self.messages: list[dict[str, str]] = []
        if system:
            self.messages.append({"role": "system", "content": system})
        self._session = session
        self._tokenizer = tokenizer
        self._chat = chat
        self._sampler = sampler
        self._cached: list[int] = []

    def ask(
        self, text: str, *, max_tokens: int = -1, timings: Timings | None = None
    ) -> Generator[Chunk]:
        """Answer `text`; an answer that is broken off stays in the conversation as far as it got.

        Raises ContextError if the conversation no longer fits.
        """
        self.messages.append({"role": "user", "content": text})
        tokens = self._tokenizer.encode(chat_prompt(self._chat, self.messages))
        fresh = self._rewind_to_common_start(tokens)
        said, generated = "", []
        try:
            for chunk in stream(
                self._session,
                self._tokenizer,
                fresh,
                self._sampler,
                max_tokens=max_tokens,
                timings=timings,
            ):
                said += chunk.text
                if chunk.token is not None:
                    generated.append(chunk.token)
                yield chunk
        finally:
            self._cached = [*tokens, *generated][: self._session.n_past]
            self.messages.append({"role": "assistant", "content": said})

    def _rewind_to_common_start(self, tokens: Sequence[int]) -> list[int]:
        """Keep what the cache shares with `tokens`; return the rest, one token at least."""
        shared = 0
        for cached, token in zip(self._cached, tokens[:-1], strict=False):
            if cached != token:
                break
            shared += 1
        self._session.rewind(shared)
        return list(tokens[shared:])
