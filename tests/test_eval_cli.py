"""ggq-eval as a command: its figures, what it keeps, and one test per error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ggq.convert.eval import chunks_of, evaluate
from ggq.convert.eval.cli import main
from ggq.runtime import tokenizer
from tests.eval_files import TEXT, write_broken, write_pair

Files = tuple[str, str, str]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """Reference, candidate, text."""
    reference, candidate = write_pair(tmp_path)
    text = tmp_path / "sea.txt"
    text.write_text(TEXT)
    return str(reference), str(candidate), str(text)


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    code = main(["-t", "1", *args])
    said = capsys.readouterr()
    return code, said.out, said.err


def report(capsys: pytest.CaptureFixture[str], *args: str) -> Any:
    code, out, err = run(capsys, *args, "--json", "-q")
    assert (code, err) == (0, "")
    return json.loads(out)


def test_figures_are_those_of_the_library(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    reference, candidate, text = files
    found = report(capsys, candidate, "--reference", reference, "--text", text, "-c", "32")
    import ggq

    with ggq.open(reference) as reader:
        words = tokenizer.from_metadata(reader.metadata)
    chunks = chunks_of(words, TEXT, 32)
    d = evaluate(candidate, reference, chunks, threads=1)
    (only,) = found["texts"]
    assert (only["domain"], only["n_ctx"], only["chunks"]) == ("sea", 32, len(chunks))
    figures = only["files"][0]["figures"]
    assert figures["kld_mean"]["value"] == pytest.approx(d.mean_kld)
    assert figures["perplexity"]["value"] == pytest.approx(d.perplexity)
    assert found["files"][0]["bits_per_weight"] == pytest.approx(32)


def test_texts_contexts_and_files(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reference, candidate, text = files
    other = tmp_path / "land.txt"
    other.write_text(TEXT[::-1])
    found = report(
        capsys, candidate, reference, "--reference", reference, "--text", text, str(other),
        "-c", "16,32", "--chunks", "2",
    )  # fmt: skip
    groups = [(t["domain"], t["n_ctx"], t["chunks"]) for t in found["texts"]]
    assert groups == [
        ("sea", 16, 2), ("land", 16, 2), ("sea", 32, 2), ("land", 32, 2), ("all", 16, 4),
        ("all", 32, 4),
    ]  # fmt: skip
    for t in found["texts"]:
        assert t["files"][1]["figures"]["kld_mean"]["value"] == 0
        assert t["against_first"][0]["ratios"]["kld_mean"]["value"] == 0
    sea, land, both = (found["texts"][i]["files"][0]["figures"]["kld_mean"] for i in (2, 3, 5))
    assert both["value"] == pytest.approx((sea["value"] + land["value"]) / 2)


def test_without_reference_there_is_the_perplexity(
    files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    found = report(capsys, *files[:2], "--text", files[2], "-c", "32")
    assert found["reference"] is None
    for each in found["texts"][0]["files"]:
        assert list(each["figures"]) == ["perplexity"]
        assert 1 < each["figures"]["perplexity"]["value"] < 1e6


def test_the_table_and_the_progress(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    reference, candidate, text = files
    code, out, err = run(capsys, candidate, "--reference", reference, "-f", text, "-c", "32")
    assert code == 0
    assert out.startswith("sea: ")
    assert "KLD mean" in out
    assert candidate in out
    assert "mean KLD" in err


def test_a_run_goes_on_from_what_is_there(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reference, candidate, text = files
    work = tmp_path / "work"
    args = [candidate, "--reference", reference, "-f", text, "-c", "32", "--workdir", str(work)]
    whole = report(capsys, *args)
    parts = sorted(work.glob("*/chunk-*.npy"))
    assert len(parts) == whole["texts"][0]["chunks"]
    parts[1].unlink()
    marked = np.load(parts[0])
    marked[0, 2] += 1
    np.save(parts[0], marked)
    again = report(capsys, *args)
    assert parts[1].exists()
    first, second = (
        r["texts"][0]["files"][0]["figures"]["kld_mean"]["value"] for r in (whole, again)
    )
    assert second - first == pytest.approx(1 / len(parts))


def test_what_another_run_kept_is_not_taken_for_this_one(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reference, candidate, text = files
    work = tmp_path / "work"
    args = [candidate, "--reference", reference, "-f", text, "--workdir", str(work), "-c"]
    for more in (["32"], ["16"], ["32", "--exact"]):
        report(capsys, *args, *more)
    assert len(list(work.iterdir())) == 3


@pytest.mark.parametrize("content", [b"", b"not an array", "shape"])
def test_damaged_results_are_named(
    content: bytes | str, files: Files, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    reference, candidate, text = files
    work = tmp_path / "work"
    args = [candidate, "--reference", reference, "-f", text, "-c", "32", "--workdir", str(work)]
    report(capsys, *args)
    part = next(work.glob("*/chunk-000000.npy"))
    if isinstance(content, bytes):
        part.write_bytes(content)
    else:
        np.save(part, np.zeros((1, 2, 3)))
    code, _, err = run(capsys, *args, "-q")
    assert code == 3
    assert "chunk-000000.npy" in err
    assert "remove it" in err


def check_error(capsys: pytest.CaptureFixture[str], code: int, message: str, *args: str) -> None:
    got, out, err = run(capsys, *args, "-q")
    assert (got, out) == (code, "")
    assert message in err
    assert err.count("\n") == 1


def test_no_text(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    check_error(capsys, 2, "no text to measure on; name one or more with --text", files[0])


def test_no_such_text(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    check_error(capsys, 4, "nowhere.txt: there is no such text", files[0], "-f", "nowhere.txt")


def test_no_such_file(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    check_error(capsys, 4, "nowhere.gguf: no such file", "nowhere.gguf", "-f", files[2])


def test_no_gguf_file(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    check_error(capsys, 3, "sea.txt: ", files[2], "-f", files[2])


def test_a_file_named_twice(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    check_error(capsys, 2, "a file is named twice", files[0], files[0], "-f", files[2])


def test_a_text_named_twice(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    check_error(capsys, 2, "this text is named twice", files[0], "-f", files[2], files[2], files[2])


def test_a_text_that_is_not_utf8(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    Path(files[2]).write_bytes(b"abc\xff")
    check_error(capsys, 2, "sea.txt: not UTF-8 at byte 3", files[0], "-f", files[2])


def test_a_text_that_is_too_short(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    check_error(
        capsys, 2, "wanted at least 2048, two chunks", files[0], "-f", files[2], "-c", "1024"
    )


def test_logits_that_are_not_finite(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = str(write_broken(tmp_path / "nan.gguf"))
    check_error(capsys, 1, "nan.gguf: its logits", broken, "--reference", files[0], "-f", files[2],
                "-c", "32")  # fmt: skip
