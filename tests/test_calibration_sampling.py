"""Sequences for calibration: deterministic, cut at lines, balanced, with BOS and chat template."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggq.convert.calibrate import corpus
from ggq.errors import CalibrationTextError, NotFoundError, TemplateError

BOS = 0x10FFFF


class Letters:
    """A tokenizer with one token a character."""

    def __init__(self, *, add_bos: bool = True) -> None:
        self.add_bos = add_bos
        self.bos = BOS

    def encode(
        self, text: str, *, add_special: bool = True, parse_special: bool = True
    ) -> list[int]:
        begin = [BOS] if add_special and self.add_bos else []
        return begin + [ord(letter) for letter in text]


class Brackets:
    """A chat template."""

    available = True

    def __init__(self, refused: str = "") -> None:
        self._refused = refused

    def render(self, messages: Sequence[dict[str, Any]], add_generation_prompt: bool = True) -> str:
        if any(one["role"] == self._refused for one in messages):
            raise TemplateError("no")
        inside = "".join(f"<{one['role']}|{one['content']}>" for one in messages)
        return f"{chr(BOS)}{inside}" + ("<assistant|" if add_generation_prompt else "")


def text_of(row: np.ndarray[Any, Any]) -> str:
    return "".join(chr(token) for token in row)


def write(folder: Path, text: str | bytes, name: str = "mine.txt") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_each_sequence_is_of_its_domain_and_begins_where_something_begins() -> None:
    rows = corpus.sample(Letters(), 100 * 300, 300)
    assert rows.shape == (100, 300)
    assert rows.dtype == np.int32
    assert set(rows[:, 0]) == {BOS}
    for domain, row in zip(corpus.domains_of(100), rows, strict=True):
        passage = text_of(row[1:]).split("\n\n")[0][:40]
        homes = [one for one in corpus.documents() if passage in one.text]
        assert domain in {one.domain for one in homes}, passage
        befores = [one.text[: one.text.index(passage)][-1:] for one in homes]
        assert any(before in ("", "\n", " ", "。", "！", "？") for before in befores), passage


def test_a_sequence_within_a_document_is_a_passage_of_it() -> None:
    code = [one for one in corpus.documents() if one.domain == "code"]
    rows = corpus.sample(Letters(add_bos=False), 40 * 200, 200, texts=code)
    whole = [row for row in rows if any(text_of(row) in one.text for one in code)]
    assert len(whole) >= 38  # the others run over the end of a document


def test_the_same_seed_gives_the_same_and_another_gives_others() -> None:
    first, again, other = (corpus.sample(Letters(), 6000, 200, seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_more_tokens_only_add_sequences() -> None:
    few, many = (corpus.sample(Letters(), n, 256) for n in (2560, 7680))
    assert np.array_equal(many[: len(few)], few)


def test_passages_are_spread_without_overlap() -> None:
    emma = [one for one in corpus.documents() if one.name == "emma"]
    rows = corpus.sample(Letters(add_bos=False), 60 * 500, 500, texts=emma)
    begins = sorted(emma[0].text.find(text_of(row[:60])) for row in rows)
    assert len(set(begins)) == 60
    assert min(np.diff(begins)) > 200


def test_conversations_are_written_with_the_template_of_the_model() -> None:
    chats = [one for one in corpus.documents() if one.conversations]
    rows = corpus.sample(Letters(), 4000, 2000, texts=chats, chat=Brackets())
    for row in rows:
        assert text_of(row).startswith(chr(BOS) + "<")
        assert text_of(row).count(chr(BOS)) == 1
        assert "<user|" in text_of(row)
        assert "User: " not in text_of(row)


def test_the_template_keeps_its_own_beginning_when_the_model_adds_none() -> None:
    chats = [one for one in corpus.documents() if one.conversations]
    rows = corpus.sample(Letters(add_bos=False), 2000, 2000, texts=chats, chat=Brackets())
    assert text_of(rows[0]).startswith(chr(BOS) + "<")


@pytest.mark.parametrize("chat", [None, Brackets(refused="user")])
def test_without_template_conversations_are_plain(chat: Brackets | None) -> None:
    chats = [one for one in corpus.documents() if one.conversations]
    rows = corpus.sample(Letters(), 4000, 2000, texts=chats, chat=chat)
    assert all("User: " in text_of(row) and "<user|" not in text_of(row) for row in rows)


@given(st.text(min_size=40).filter(lambda text: len(text.split()) > 3), st.integers(2, 30))
def test_any_user_text_is_cut(text: str, n_ctx: int) -> None:
    document = corpus.Document("mine", "user", "", text)
    rows = corpus.sample(Letters(), 5 * n_ctx, n_ctx, texts=[document])
    assert rows.shape == (5, n_ctx)
    assert set(rows[:, 1:].ravel()) <= {ord(letter) for letter in text + "\n"}


def test_user_files_are_read_as_they_are(tmp_path: Path) -> None:
    paths = [write(tmp_path, "\ufeffOne.\r\nTwo.\r\n", "a.txt"), write(tmp_path, "Drei ä\n", "b")]
    first, second = corpus.read_files(paths)
    assert (first.name, first.domain, first.text) == ("a.txt", "user", "One.\nTwo.\n")
    assert second.text == "Drei ä\n"
    assert corpus.text_hash([first]) != corpus.text_hash([second])


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"gone\.txt: no such calibration file"):
        corpus.read_files([tmp_path / "gone.txt"])


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(CalibrationTextError, match="is a folder"):
        corpus.read_files([tmp_path])


def test_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    with pytest.raises(CalibrationTextError, match=r"mine\.txt: byte 3 is not UTF-8"):
        corpus.read_files([write(tmp_path, b"abc\xff\xfe")])


def test_an_empty_file(tmp_path: Path) -> None:
    with pytest.raises(CalibrationTextError, match=r"mine\.txt has no text"):
        corpus.read_files([write(tmp_path, " \n\n")])


def test_no_file() -> None:
    with pytest.raises(CalibrationTextError, match="at least one text file"):
        corpus.read_files([])


def test_a_text_shorter_than_a_sequence(tmp_path: Path) -> None:
    texts = corpus.read_files([write(tmp_path, "Too short.\n")])
    with pytest.raises(CalibrationTextError, match=r"mine\.txt: 11 tokens .* fewer than the 512"):
        corpus.sample(Letters(), 4096, 512, texts=texts)
