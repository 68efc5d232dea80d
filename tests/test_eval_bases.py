"""Base files: read as they were written, in the bytes of llama.cpp, refused where damaged."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ggq
from ggq.convert.eval import Chunks
from ggq.convert.eval.cli import main
from ggq.convert.eval.llama_base import LlamaBase, LlamaBaseWriter
from ggq.convert.eval.state_base import StateBase
from ggq.errors import FormatError, LimitError, TruncatedError
from tests.eval_files import MODEL, TEXT, tiny_chunks, write_pair
from tests.models import TINY, VOCAB_SIZE

HEADER = struct.Struct("<8sIii")


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str, str]:
    """Reference, candidate, text."""
    reference, candidate = write_pair(tmp_path)
    text = tmp_path / "sea.txt"
    text.write_text(TEXT)
    return str(reference), str(candidate), str(text)


def report(capsys: pytest.CaptureFixture[str], *args: str) -> Any:
    code = main([*args, "--json", "-q", "-t", "1"])
    said = capsys.readouterr()
    assert (code, said.err) == (0, "")
    return json.loads(said.out) if said.out else None


def refused(capsys: pytest.CaptureFixture[str], code: int, message: str, *args: str) -> None:
    got = main([*args, "-q", "-t", "1"])
    said = capsys.readouterr()
    assert (got, said.out, said.err.count("\n")) == (code, "", 1)
    assert message in said.err


def klds(found: Any) -> list[float]:
    return [t["files"][0]["figures"]["kld_mean"]["value"] for t in found["texts"]]


@pytest.mark.parametrize("mode", [[], ["--exact"]])
def test_an_own_base_says_what_the_model_says(
    mode: list[str], files: tuple[str, str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reference, candidate, text = files
    base = str(tmp_path / "own.base")
    sizes = ["--text", text, "-c", "16,34"]
    direct = report(capsys, candidate, "--reference", reference, *sizes, *mode, "--save-base", base)
    again = report(capsys, candidate, "--reference", base, *mode)
    groups = [[(t["domain"], t["n_ctx"], t["chunks"]) for t in r["texts"]] for r in (direct, again)]
    assert groups[0] == groups[1]
    assert klds(again) == pytest.approx(klds(direct), rel=1e-5)
    alone = str(tmp_path / "alone.base")
    report(capsys, "--reference", reference, *sizes, *mode, "--save-base", alone)
    assert Path(alone).read_bytes() == Path(base).read_bytes()


def test_an_own_base_of_a_model_with_bos_and_norms(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, text = str(TINY["gemma3"].write_gguf(tmp_path / "gemma.gguf")), tmp_path / "t.txt"
    text.write_text(TEXT)
    base = str(tmp_path / "own.base")
    report(capsys, "--reference", model, "-f", str(text), "-c", "16", "--save-base", base)
    assert klds(report(capsys, model, "--reference", base)) == pytest.approx([0], abs=1e-6)


def test_llama_cpp_base_has_its_bytes(tmp_path: Path) -> None:
    chunks = Chunks(tiny_chunks(2, 8).tokens % 5)
    logits = np.random.default_rng(1).normal(size=(6, 5)).astype(np.float32) * 20
    with LlamaBaseWriter(tmp_path / "base", chunks, 5) as write:
        write(logits[:3], chunks.targets(0))
        write(logits[3:], chunks.targets(1))
    raw = (tmp_path / "base").read_bytes()
    assert raw[:20] == b"_logits_" + struct.pack("<Iii", 8, 5, 2)
    assert raw[20:84] == chunks.tokens.astype("<i4").tobytes()
    assert len(raw) == 84 + 6 * 2 * (4 + 6)
    for i, row in enumerate(logits.astype(np.float64)):
        words = raw[84 + 20 * i : 104 + 20 * i]
        scale, least = struct.unpack("<ff", words[:8])
        codes = np.frombuffer(words[8:18], "<u2")
        low = max(row.min(), row.max() - 16)
        log_sum = row.max() + np.log(np.exp(row - row.max()).sum())
        assert scale == pytest.approx((row.max() - low) / 65535)
        assert least == pytest.approx(low - log_sum, abs=1e-5)
        kept = np.maximum(row, low) - log_sum
        np.testing.assert_allclose(scale * codes + least, kept, atol=0.51 * scale + 1e-5)
    base = LlamaBase(tmp_path / "base", 1)
    assert np.array_equal(base.texts[0].tokens, chunks.tokens)
    assert [b.shape for b in base.blocks(base.texts[0], 0, 2)] == [(2, 5), (1, 5)]


def test_logits_that_are_all_alike_have_no_scale(tmp_path: Path) -> None:
    chunks = Chunks(tiny_chunks(1, 8).tokens % 4)
    with LlamaBaseWriter(tmp_path / "base", chunks, 4) as write:
        write(np.full((3, 4), 2.0, np.float32), chunks.targets(0))
    base = LlamaBase(tmp_path / "base", None)
    (block,) = base.blocks(base.texts[0], 0, 8)
    np.testing.assert_allclose(block, np.log(0.25), rtol=1e-6)


def test_a_base_of_llama_cpp_as_the_reference(
    files: tuple[str, str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reference, candidate, text = files
    base = str(tmp_path / "llama.base")
    direct = report(capsys, candidate, "--reference", reference, "-f", text, "-c", "32",
                    "--save-llama-base", base)  # fmt: skip
    assert klds(report(capsys, candidate, "--reference", base)) == pytest.approx(
        klds(direct), rel=1e-3
    )


def test_a_model_directory_as_the_reference(
    files: tuple[str, str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, candidate, text = files
    folder = str(MODEL.write_hf(tmp_path / "model"))
    direct, from_folder = (
        klds(report(capsys, candidate, "--reference", name, "-f", text, "-c", "32"))
        for name in (files[0], folder)
    )
    assert from_folder == pytest.approx(direct, rel=1e-6)


# --- what is refused ------------------------------------------------------------------------------


def damaged_llama(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(("content", "error", "message"), [
    (b"_logits_", TruncatedError, "ends inside the header"),
    (HEADER.pack(b"_logits_", 4, 5, 1), LimitError, "1 chunks of 4 tokens"),
    (HEADER.pack(b"_logits_", 8, 0, 1), LimitError, "0 in the vocabulary"),
    (HEADER.pack(b"_logits_", 8, 5, 1) + bytes(40), TruncatedError, "take 112 bytes"),
    (HEADER.pack(b"_logits_", 8, 5, 1) + b"\xff" * 92, LimitError, "outside of the vocabulary"),
])  # fmt: skip
def test_damaged_llama_bases(
    content: bytes, error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        LlamaBase(damaged_llama(tmp_path / "base", content), None)


@pytest.mark.parametrize(("change", "message"), [
    ("no head", "no tensor output.weight"),
    ("no states", "no tensor text.0.states"),
    ("fewer states", "wanted F32 of 30 tokens, 64 each"),
    ("wrong token", "a token is outside the vocabulary"),
    ("no chunks", "are no chunks of tokens"),
])  # fmt: skip
def test_damaged_own_bases(change: str, message: str, tmp_path: Path) -> None:
    tokens = np.zeros((2, 32), np.int32)
    arrays: dict[str, Any] = {
        "output.weight": np.zeros((VOCAB_SIZE, 64), np.float32),
        "text.0.tokens": tokens,
        "text.0.states": np.zeros((30, 64), np.float32),
    }
    if change == "no head":
        del arrays["output.weight"]
    elif change == "no states":
        del arrays["text.0.states"]
    elif change == "fewer states":
        arrays["text.0.states"] = arrays["text.0.states"][:-1]
    elif change == "wrong token":
        tokens[1, 2] = VOCAB_SIZE
    else:
        arrays["text.0.tokens"] = tokens[:, :4]
    metadata = ggq.Metadata()
    metadata.set("general.architecture", "ggq-base", ggq.ValueType.STRING)
    metadata.set("ggq.base.domains", ["sea"], ggq.ValueType.ARRAY, ggq.ValueType.STRING)
    metadata.set("ggq.base.bos", -1, ggq.ValueType.I32)
    metadata.set("ggq.base.softcap", 0.0, ggq.ValueType.F32)
    metadata.set("ggq.base.exact", False, ggq.ValueType.BOOL)
    from ggq.blocks import by_name

    kinds = {"i": by_name("I32"), "f": by_name("F32")}
    infos = [ggq.TensorInfo(n, x.shape, kinds[x.dtype.kind]) for n, x in arrays.items()]
    with ggq.Writer(tmp_path / "base", metadata, infos) as writer:
        for name, x in arrays.items():
            writer.write(name, np.ascontiguousarray(x))
    with pytest.raises(FormatError, match=message):
        StateBase(tmp_path / "base", threads=1)


def test_an_own_base_of_the_other_mode(
    files: tuple[str, str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = str(tmp_path / "own.base")
    report(capsys, "--reference", files[0], "-f", files[2], "-c", "32", "--save-base", base)
    refused(capsys, 2, "made without --exact", files[1], "--reference", base, "--exact")
    refused(capsys, 2, "brings its own text", files[1], "--reference", base, "-f", files[2])
    other = str(tmp_path / "other.base")
    refused(capsys, 2, "is a base file itself", "--reference", base, "--save-base", other)


def test_saving_needs_one_reference_and_one_form(
    files: tuple[str, str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reference, candidate, text = files
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    refused(capsys, 2, "name it with --reference", candidate, "-f", text, "--save-base", a)
    refused(capsys, 2, "exclude each other", "--reference", reference, "-f", text,
            "--save-base", a, "--save-llama-base", b)  # fmt: skip
    refused(capsys, 2, "holds one text and context", "--reference", reference, "-f", text,
            "-c", "16,32", "--save-llama-base", b)  # fmt: skip
    refused(capsys, 2, "no file to measure", "--reference", reference, "-f", text)
    assert not Path(a).exists()


def test_a_base_of_llama_cpp_without_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = str(damaged_llama(tmp_path / "base", HEADER.pack(b"_logits_", 8, 5, 1)))
    refused(capsys, 2, "name one or more", "--reference", base, "--save-base", "x")
