"""Generation: why it ends, what it shows, and what a conversation computes again."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggq.errors import ContextError, UnsupportedModelError, UsageError
from ggq.runtime.conversation import Conversation
from ggq.runtime.generation import answer, generate, stream, text_of
from ggq.runtime.sampler import Sampler
from ggq.runtime.sampler_params import SamplerParams
from ggq.runtime.stopping import StopStrings
from ggq.runtime.timings import Timings
from tests.fake_model import END, FakeChat, FakeSession, FakeTokenizer

GREEDY = SamplerParams(temp=0)


def run(
    reply: bytes = b"abcdef", prompt: bytes = b"x", n_ctx: int = 100, **options: Any
) -> tuple[str, str | None, FakeSession]:
    """(text, finish reason, session) of one generation."""
    session = FakeSession(reply, n_ctx)
    chunks = [*stream(session, FakeTokenizer(), [*prompt], Sampler(GREEDY), **options)]
    assert [chunk.finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].token is None
    return text_of(chunks), chunks[-1].finish_reason, session


def test_an_end_token_stops_and_is_not_shown() -> None:
    text, reason, session = run()
    assert (text, reason) == ("abcdef", "stop")
    assert END not in session.read


def test_an_ignored_end_token_never_comes() -> None:
    params = SamplerParams(temp=0, logit_bias={END: -math.inf})
    session = FakeSession(b"ab", 50)
    chunks = [*stream(session, FakeTokenizer(), [1], Sampler(params), max_tokens=9)]
    assert (len(chunks), chunks[-1].finish_reason) == (10, "length")


@pytest.mark.parametrize("most", [0, 1, 3])
def test_max_tokens_is_exact_and_computes_nothing_in_vain(most: int) -> None:
    text, reason, session = run(max_tokens=most)
    assert (text, reason) == ("abcdef"[:most], "length")
    assert session.decoded == max(0, most - 1)


@pytest.mark.parametrize("length, text", [(9, "ab"), (10, "a")])
def test_a_full_context_ends_the_text(length: int, text: str) -> None:
    found, reason, session = run(prompt=b"x" * length, n_ctx=10)
    assert (found, reason, session.n_past) == (text, "context", 10)


def test_a_prompt_one_token_too_long_is_refused_with_both_numbers() -> None:
    with pytest.raises(ContextError, match=r"11 tokens, but the context holds 10"):
        run(prompt=b"x" * 11, n_ctx=10)


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(UsageError, match="empty"):
        run(prompt=b"")


@pytest.mark.parametrize("reply", ["naïve 😀", "日本語"])
def test_characters_come_whole(reply: str) -> None:
    session = FakeSession(reply.encode(), 100)
    texts = [chunk.text for chunk in stream(session, FakeTokenizer(), [1], Sampler(GREEDY))]
    assert "".join(texts) == reply
    assert "\ufffd" not in "".join(texts)
    assert [text for text in texts if text] == [*reply]


def test_a_character_cut_off_becomes_a_replacement() -> None:
    assert run("a😀".encode(), max_tokens=3)[:2] == ("a\ufffd", "length")


def test_a_stop_string_ends_the_text_before_it() -> None:
    text, reason, session = run(b"one two three", stop=["wo t", "zzz"])
    assert (text, reason) == ("one t", "stop")
    assert session.decoded < len("one two three")


@given(st.text("ab", max_size=30), st.lists(st.text("ab", min_size=1, max_size=4), max_size=4))
def test_stop_strings_cut_as_a_search_of_the_whole_text_does(text: str, stops: list[str]) -> None:
    filter_ = StopStrings(stops)
    shown = "".join(map(filter_.push, text)) + filter_.finish()
    # letter by letter, the first stop string to be complete is the one that cuts
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    complete = text[: min(ends)] if ends else text
    starts = [complete.find(stop) for stop in stops if stop in complete]
    assert shown == (text[: min(starts)] if starts else text)
    assert filter_.found == bool(ends)


def test_timings_count_what_was_computed() -> None:
    timings = Timings()
    run(prompt=b"12345", max_tokens=4, timings=timings)
    assert (timings.prompt.count, timings.decode.count, timings.sample.count) == (5, 3, 4)
    lines = timings.lines("x")
    assert any("prompt eval time =" in line and "/     5 tokens (" in line for line in lines)
    assert any("       eval time =" in line and "/     3 runs   (" in line for line in lines)


def test_generate_takes_sampler_settings_by_name() -> None:
    chunks = generate(FakeSession(b"abc", 99), FakeTokenizer(), "x", temp=0, max_tokens=2)
    assert text_of(chunks) == "ab"
    with pytest.raises(TypeError):
        generate(FakeSession(b"abc", 99), FakeTokenizer(), "x", temperatur=0)


def test_answer_renders_the_messages() -> None:
    session = FakeSession(b"abc", 99)
    assert text_of(answer(session, FakeTokenizer(), FakeChat(), "hi")) == "abc"
    assert bytes(session.prefilled[0]) == b"<user>hi<assistant>"


def test_answer_without_a_template_says_what_to_do() -> None:
    session = FakeSession(b"abc", 99)
    with pytest.raises(UnsupportedModelError, match="no chat template"):
        answer(session, FakeTokenizer(), FakeChat(available=False), "hi")


def conversation(session: FakeSession, system: str | None = None) -> Conversation:
    return Conversation(session, FakeTokenizer(), FakeChat(), Sampler(GREEDY), system)


def test_a_turn_computes_only_what_is_new() -> None:
    session = FakeSession(b"yes", 200)
    talk = conversation(session, "be brief")
    assert text_of(talk.ask("one")) == "yes"
    assert text_of(talk.ask("two")) == "yes"
    first, second = map(bytes, session.prefilled)
    assert first == b"<system>be brief<user>one<assistant>"
    assert second == b"<user>two<assistant>"
    assert bytes(session.read) == first + b"yes" + second + b"yes"


def test_a_broken_off_answer_stays_as_far_as_it_got() -> None:
    session = FakeSession(b"abcdef", 200)
    talk = conversation(session)
    chunks = talk.ask("one")
    assert [next(chunks).text for _ in range(2)] == ["a", "b"]
    chunks.close()
    assert talk.messages[-1] == {"role": "assistant", "content": "ab"}
    assert text_of(talk.ask("two")) == "abcdef"
    # "b" was shown, but not yet read by the model
    assert bytes(session.prefilled[1]) == b"b<user>two<assistant>"
    assert bytes(session.read).startswith(b"<user>one<assistant>ab<user>two<assistant>")


def test_a_template_that_rewrites_the_past_makes_it_be_read_again() -> None:
    class Trimming(FakeChat):
        def render(self, messages: list[dict[str, Any]]) -> str:
            short = [m | {"content": m["content"][:1]} for m in messages[:-1]]
            return super().render([*short, messages[-1]])

    session = FakeSession(b"yes", 200)
    talk = Conversation(session, FakeTokenizer(), Trimming(), Sampler(GREEDY))
    text_of(talk.ask("one"))
    text_of(talk.ask("two"))
    assert bytes(session.read) == b"<user>o<assistant>y<user>two<assistant>yes"


def test_the_same_question_again_still_reads_one_token() -> None:
    class Forgetful(FakeChat):
        def render(self, messages: list[dict[str, Any]]) -> str:
            return super().render(messages[-1:])

    session = FakeSession(b"yes", 200)
    talk = Conversation(session, FakeTokenizer(), Forgetful(), Sampler(GREEDY))
    assert text_of(talk.ask("one")) == text_of(talk.ask("one")) == "yes"
    assert [len(tokens) for tokens in session.prefilled] == [len("<user>one<assistant>"), 1]
