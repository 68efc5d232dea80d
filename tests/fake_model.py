"""A model without weights, for the tests of everything around the forward pass.

Tokens are bytes and two specials. The model gives the same reply to every prompt. As a program
(`python -m tests.fake_model FLAGS`) it is ggq-run with this model; FAKE_REPLY, FAKE_DELAY (seconds
per token) and FAKE_CHAT=0 change it.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from ggq.errors import ContextError
from ggq.runtime import cli
from ggq.runtime.tokenizer._stream import TextStream

BOS, END, VOCAB = 256, 257, 258


class FakeTokenizer:
    """One token per byte."""

    eog = frozenset({END})

    def encode(
        self, text: str, *, add_special: bool = True, parse_special: bool = True
    ) -> list[int]:
        return list(text.encode())

    def token_bytes(self, token: int) -> bytes:
        return bytes([token]) if token < 256 else b""

    def decode(self, tokens: Sequence[int]) -> str:
        return b"".join(map(self.token_bytes, tokens)).decode(errors="replace")

    def stream(self) -> TextStream:
        return TextStream(self.token_bytes)


class FakeSession:
    """Replies with `reply`, then the end token, whatever it reads; `read` is all it has read."""

    def __init__(self, reply: Sequence[int], n_ctx: int, delay: float = 0) -> None:
        self.reply = [*reply, END]
        self.n_ctx = n_ctx
        self.read: list[int] = []
        self.prefilled: list[list[int]] = []
        self.decoded = 0
        self._delay = delay

    @property
    def n_past(self) -> int:
        return len(self.read)

    def prefill(self, tokens: Sequence[int]) -> np.ndarray:
        self.prefilled.append(list(tokens))
        self.decoded = 0
        return self._append(tokens)

    def decode(self, token: int) -> np.ndarray:
        time.sleep(self._delay)
        self.decoded += 1
        return self._append([token])

    def rewind(self, n_past: int) -> None:
        assert 0 <= n_past <= self.n_past
        del self.read[n_past:]

    def _append(self, tokens: Sequence[int]) -> np.ndarray:
        if self.n_past + len(tokens) > self.n_ctx:
            raise ContextError("more than the fake context holds")
        self.read += tokens
        logits = np.zeros(VOCAB, np.float32)
        logits[self.reply[self.decoded % len(self.reply)]] = 50
        return logits


class FakeChat:
    """<role>content for each message, then <assistant>."""

    def __init__(self, available: bool = True) -> None:
        self.available = available

    def render(self, messages: list[dict[str, Any]]) -> str:
        return "".join(f"<{m['role']}>{m['content']}" for m in messages) + "<assistant>"


class FakeModel:
    """What ggq-run needs of a model."""

    def __init__(
        self, reply: str | bytes = "Hello, wörld!", *, chat: bool = True, delay: float = 0
    ) -> None:
        self.tokenizer = FakeTokenizer()
        self.chat_template = FakeChat(chat)
        self.hparams = SimpleNamespace(n_ctx=4096)
        self.sessions: list[FakeSession] = []
        self._reply = reply.encode() if isinstance(reply, str) else reply
        self._delay = delay

    def session(self, n_ctx: int = 0) -> FakeSession:
        self.sessions.append(FakeSession(self._reply, n_ctx or self.hparams.n_ctx, self._delay))
        return self.sessions[-1]


if __name__ == "__main__":
    fake = FakeModel(
        os.environ.get("FAKE_REPLY", "Hello, wörld!"),
        chat=os.environ.get("FAKE_CHAT") != "0",
        delay=float(os.environ.get("FAKE_DELAY", "0")),
    )
    cli.load_model = lambda args: fake  # type: ignore[assignment, return-value]
    sys.exit(cli.main())
