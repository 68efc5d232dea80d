"""The calibration text: its files, licences and shares; held-out text is not in it; the wheel."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggq.convert.calibrate import corpus
from ggq.convert.calibrate.corpus.documents import FOLDER, LICENCES, TEXTS
from ggq.reader import Reader
from ggq.runtime.tokenizer import from_metadata
from tests import held_out, written_corpus
from tests.tree_copy import ROOT, copy_tree

WITHOUT_LICENCE_TEXT = {"public-domain", "ggq"}
INDEX = json.loads((FOLDER / "index.json").read_text("utf-8"))


def test_the_index_tells_every_file_with_its_hash() -> None:
    assert {one["file"] for one in INDEX} == {path.name for path in TEXTS.iterdir()}
    for one in INDEX:
        digest = hashlib.sha256((TEXTS / one["file"]).read_bytes()).hexdigest()
        assert one["sha256"] == digest, one["file"]
        assert all(one[key] for key in ("domain", "language", "title", "author", "origin"))


def test_every_licence_goes_with_the_text() -> None:
    named = {one["licence"] for one in INDEX} - WITHOUT_LICENCE_TEXT
    assert {f"{name}.txt" for name in named} == {path.name for path in LICENCES.iterdir()}


def test_the_text_is_broad() -> None:
    documents = corpus.documents()
    size = sum(len(one.text.encode()) for one in documents)
    assert 1_300_000 < size < 1_700_000
    assert len({one.language for one in documents} - {"code", "mixed"}) >= 14
    assert {one.domain for one in documents} == set(corpus.SHARES)
    assert sum(corpus.SHARES.values()) == pytest.approx(1)
    assert any(one.conversations for one in documents)


def test_no_domain_has_to_repeat_itself() -> None:
    """64k tokens take less of each domain than there is, at five characters a token."""
    for domain, share in corpus.SHARES.items():
        size = sum(len(one.text) for one in corpus.documents() if one.domain == domain)
        assert size > share * 65536 * 3, domain


@pytest.mark.parametrize("name", written_corpus.files())
def test_the_generated_files_are_what_the_generator_writes(name: str) -> None:
    assert (TEXTS / name).read_text("utf-8") == written_corpus.files()[name]


@given(st.integers(1, 600))
def test_any_number_of_sequences_has_the_stated_shares(n_sequences: int) -> None:
    counts = Counter(corpus.domains_of(n_sequences))
    assert counts.total() == n_sequences
    for domain, share in corpus.SHARES.items():
        assert abs(counts[domain] - share * n_sequences) < 1.5, domain


def test_the_hash_depends_on_every_text() -> None:
    documents = corpus.documents()
    whole = corpus.text_hash()
    assert whole == corpus.text_hash(documents)
    assert len({corpus.text_hash(documents[:n]) for n in range(len(documents))} | {whole}) == (
        len(documents) + 1
    )


def test_held_out_texts_are_what_their_index_tells() -> None:
    files = {path.name for path in held_out.FOLDER.iterdir()}
    listed = {one["file"] for one in held_out.index()}
    assert files == listed | {"index.json", "rust-book-licence.txt"}
    assert len({one["domain"] for one in held_out.index()}) >= 3
    for one in held_out.index():
        digest = hashlib.sha256((held_out.FOLDER / one["file"]).read_bytes()).hexdigest()
        assert one["sha256"] == digest, one["file"]


def test_held_out_texts_are_long_enough(smollm2: Path) -> None:
    tokenizer = from_metadata(Reader(smollm2).metadata)
    for name, text in held_out.texts().items():
        assert len(tokenizer.encode(text)) >= 65536, name


def test_no_passage_of_a_held_out_text_is_in_the_calibration_text() -> None:
    passages = held_out.Passages(one.text for one in corpus.documents())
    for name, text in held_out.texts().items():
        assert passages.shared(text) == set(), name


@given(st.data())
def test_a_shared_passage_is_found(data: st.DataObject) -> None:
    letters = st.text("abc d", min_size=60, max_size=300)
    other, text = data.draw(letters), data.draw(letters)
    begin = data.draw(st.integers(0, max(0, len(held_out.flat(other)) - held_out.PASSAGE)))
    passage = held_out.flat(other)[begin : begin + held_out.PASSAGE]
    shared = held_out.Passages([other]).shared(text[:30] + "x " + passage + " x" + text[30:])
    assert len(passage.strip()) < held_out.PASSAGE or passage in shared


def test_the_wheel_contains_the_text(tmp_path: Path) -> None:
    tree = copy_tree(tmp_path / "tree")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(tmp_path)]
    subprocess.run([*command, str(tree)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    inside = "ggq/convert/calibrate/corpus/"
    with zipfile.ZipFile(wheel) as archive:
        packed = {
            name.removeprefix(inside): archive.read(name)
            for name in archive.namelist()
            if name.startswith(inside) and not name.endswith(".py")
        }
    here = {path.relative_to(FOLDER).as_posix(): path.read_bytes() for path in data_files()}
    assert packed == here


def data_files() -> list[Path]:
    """Everything in the folder that is not Python."""
    return [
        path for path in FOLDER.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")
    ]


def test_the_settings_name_every_file_of_the_text() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["ggq.convert.calibrate.corpus"]
    names = [path.relative_to(FOLDER).as_posix() for path in data_files()]
    assert [n for n in names if not any(fnmatch.fnmatch(n, p) for p in patterns)] == []
