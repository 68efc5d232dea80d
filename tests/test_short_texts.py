"""Short texts are tokenized without the library, to the same tokens."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers

from ggq.reader import Reader
from ggq.runtime.tokenizer import from_metadata
from ggq.runtime.tokenizer._pretokenizers import PRETOKENIZERS
from ggq.runtime.tokenizer._short_texts import MOST_CHARACTERS, _parts, patterns
from ggq.runtime.tokenizer.bpe import Bpe
from tests import oracles, vocabularies
from tests.tree_copy import ROOT, run_in

SPLITS = {pre.splits: name for name, pre in PRETOKENIZERS.items() if pre.byte_level}
LIBRARY_ONLY = {"deepseek-llm", "kimi-k2"}
COMMON = st.sampled_from(list("  \n\n\r\t  abcstdmlverSTX019'''.,!?-/:|é ſKßÀŉΣσςя"))
LATIN = st.characters(max_codepoint=0x58F)
TEXTS = st.lists(COMMON | LATIN, max_size=40).map("".join)


@pytest.mark.parametrize("splits", SPLITS, ids=SPLITS.values())
@settings(max_examples=150, deadline=None)
@given(text=TEXTS)
def test_words_are_the_librarys(splits: tuple[str, ...], text: str) -> None:
    ours = patterns(splits)
    assert (ours is None) == (SPLITS[splits] in LIBRARY_ONLY)
    words = [text] if text else []
    for pattern in ours or ():
        words = [part for word in words for part in _parts(pattern, word)]
    steps = [pre_tokenizers.Split(Regex(regex), "isolated") for regex in splits]
    wanted = [word for word, _ in pre_tokenizers.Sequence(steps).pre_tokenize_str(text)]
    assert ours is None or words == wanted


def library_tokens(tokenizer: Bpe, text: str) -> list[int]:
    _ = tokenizer._merger
    return tokenizer.encode(text, add_special=False, parse_special=False)


@cache
def golden(name: str) -> tuple[Bpe, Bpe]:
    path = oracles.llama_cpp_tree() / "models" / f"ggml-vocab-{name}.gguf"
    metadata = Reader(path, header_only=True).metadata
    short, library = from_metadata(metadata), from_metadata(metadata)
    assert isinstance(short, Bpe)
    assert isinstance(library, Bpe)
    return short, library


WORDS = "The quick brown fox jumps it's don't 1234567 naïve straße import == <html> Привет γειά"


@pytest.mark.parametrize("name", ["gpt-2", "refact"])
@settings(max_examples=200, deadline=None)
@given(parts=st.lists(st.sampled_from([*WORDS.split(), " ", " ", "\n"]) | COMMON, max_size=60))
def test_tokens_are_the_librarys(name: str, parts: list[str]) -> None:
    short, library = golden(name)
    text = "".join(parts)
    assert short.encode(text, add_special=False) == library_tokens(library, text)
    assert "_merger" not in vars(short)


@settings(max_examples=100, deadline=None)
@given(
    merges=st.lists(
        st.tuples(*[st.text("abcĠ", min_size=1, max_size=3)] * 2), min_size=1, max_size=30
    ),
    lacking=st.sets(st.sampled_from("abcĠ"), max_size=2),
    ignore_merges=st.booleans(),
    text=st.text("abc d1", max_size=60),
)
def test_tokens_of_odd_vocabularies_are_the_librarys(
    merges: list[tuple[str, str]], lacking: set[str], ignore_merges: bool, text: str
) -> None:
    """Merges of what cannot be reached, twice, or without a letter that has a token."""
    pairs = [f"{left} {right}" for left, right in merges]
    tokens = vocabularies.bpe(pairs)["tokenizer.ggml.tokens"].tolist()
    renamed = [f"[{token}]" if token in lacking else token for token in tokens]
    pre = "llama-bpe" if ignore_merges else "gpt-2"
    metadata = vocabularies.metadata_of(
        {"model": "gpt2", "pre": pre, "tokens": renamed, "merges": pairs}
    )
    short, library = from_metadata(metadata), from_metadata(metadata)
    assert isinstance(library, Bpe)
    assert short.encode(text, add_special=False) == library_tokens(library, text)


@pytest.mark.parametrize(
    "text", ["日本", "x " * MOST_CHARACTERS, "a" * 300], ids=["other script", "long", "long word"]
)
def test_other_texts_are_left_to_the_library(text: str) -> None:
    metadata = vocabularies.bpe(["a a", "aa aa"])
    tokenizer = from_metadata(metadata)
    tokenizer.encode("aaa")
    assert "_merger" not in vars(tokenizer)
    tokens = tokenizer.encode(text)
    assert "_merger" in vars(tokenizer)
    assert tokenizer.decode(tokens) == text


def test_a_short_text_loads_no_library(smollm2: Path) -> None:
    code = """
import sys, ggq
with ggq.open(sys.argv[1]) as reader:
    from ggq.runtime.tokenizer import from_metadata
    print(from_metadata(reader.metadata).encode("Hello, world!"), "tokenizers" in sys.modules)
"""
    assert run_in(ROOT, code, str(smollm2)) == "[19556, 28, 905, 17] False\n"
