"""From a prompt to new text, token by token: prefill, sample, decode, until something ends it."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterable, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from ggq.errors import ContextError, UnsupportedModelError, UsageError
from ggq.runtime.sampler import Sampler
from ggq.runtime.sampler_params import SamplerParams
from ggq.runtime.stopping import StopStrings
from ggq.runtime.timings import Timings
from ggq.runtime.tokenizer import Tokenizer

Logits = npt.NDArray[np.float32]
Messages = Sequence[dict[str, Any]]

# "stop": an end-of-generation token or a stop string; "length": max_tokens; "context": it is full.
FinishReason = Literal["stop", "length", "context"]


class Session(Protocol):
    """The state of one text in a model: a KV cache for `n_ctx` positions, `n_past` of them used."""

    @property
    def n_ctx(self) -> int: ...
    @property
    def n_past(self) -> int: ...
    def prefill(self, tokens: Sequence[int]) -> Logits: ...
    def decode(self, token: int) -> Logits: ...
    def rewind(self, n_past: int) -> None: ...


class ChatFormat(Protocol):
    """Messages to prompt text; see ggq.runtime.chat."""

    @property
    def available(self) -> bool: ...
    def render(self, messages: list[dict[str, Any]]) -> str: ...


class Chunk(NamedTuple):
    """A piece of the answer. The last one has no token, and says why the answer ended."""

    text: str
    token: int | None = None
    finish_reason: FinishReason | None = None


def stream(
    session: Session,
    tokenizer: Tokenizer,
    prompt: Sequence[int],
    sampler: Sampler,
    *,
    max_tokens: int = -1,
    stop: Iterable[str] = (),
    timings: Timings | None = None,
) -> Generator[Chunk]:
    """Continue `session` with `prompt` and yield what the model adds, as it comes.

    `max_tokens` < 0 has no limit but the context. Texts of `stop` end the answer and are not part
    of it. Raises UsageError for an empty prompt, ContextError for one that does not fit.
    """
    clock = timings or Timings()
    _check_room(session, prompt)
    for token in prompt:
        sampler.accept(token)
    with clock.prompt.measure(len(prompt)):
        logits = session.prefill(prompt)
    if max_tokens == 0:
        yield Chunk("", None, "length")
        return
    decoder, stops = tokenizer.stream(), StopStrings(stop)
    for produced in itertools.count(1):
        with clock.sample.measure():
            token = sampler.sample(logits)
            sampler.accept(token)
        reason: FinishReason = "stop"
        if token in tokenizer.eog:
            break
        yield Chunk(stops.push(decoder.push(token)), token)
        if stops.found:
            break
        reason = "length"
        if produced == max_tokens:
            break
        reason = "context"
        if session.n_past >= session.n_ctx:
            break
        with clock.decode.measure():
            logits = session.decode(token)
    yield Chunk(stops.push(decoder.finish()) + stops.finish(), None, reason)


def generate(
    session: Session,
    tokenizer: Tokenizer,
    prompt: str,
    *,
    max_tokens: int = -1,
    stop: Iterable[str] = (),
    **sampling: Any,
) -> Generator[Chunk]:
    """Continue a text; `sampling` are fields of SamplerParams."""
    sampler = Sampler(SamplerParams(**sampling))
    tokens = tokenizer.encode(prompt)
    return stream(session, tokenizer, tokens, sampler, max_tokens=max_tokens, stop=stop)


def answer(
    session: Session,
    tokenizer: Tokenizer,
    chat: ChatFormat,
    messages: Messages | str,
    **options: Any,
) -> Generator[Chunk]:
    """Answer a conversation (or one user message); `options` as for `generate`."""
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    return generate(session, tokenizer, chat_prompt(chat, messages), **options)


def chat_prompt(chat: ChatFormat, messages: Messages) -> str:
    """The prompt the model's chat template makes. Raises UnsupportedModelError without one."""
    if not chat.available:
        raise UnsupportedModelError(
            "the model has no chat template; give it plain text (ggq-run: -no-cnv)"
        )
    return chat.render(list(messages))


def text_of(chunks: Iterable[Chunk]) -> str:
    """The whole text of a stream."""
    return "".join(chunk.text for chunk in chunks)


def _check_room(session: Session, prompt: Sequence[int]) -> None:
    if not prompt:
        raise UsageError("the prompt is empty: it has no tokens")
    needed = session.n_past + len(prompt)
    if needed > session.n_ctx:
        raise ContextError(
            f"the prompt is too long: {needed:,} tokens, but the context holds {session.n_ctx:,};"
            " shorten it or enlarge the context (-c)"
        )
