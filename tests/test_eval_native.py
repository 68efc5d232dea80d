"""ggq-eval against what native llama-perplexity says of the same files and text.

Both round activations to bytes, each in its own order of summation, so they agree to a few tenths
of a percent, not to the last digit.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from ggq.convert import cli as convert_cli
from ggq.convert.eval.cli import main

TESTS = Path(__file__).parent
GOLDEN = json.loads((TESTS / "golden" / "perplexity.json").read_text())
TEXT = ["--text", str(TESTS / "data" / "eval" / "moby-dick.txt")]
SAME = [*TEXT, "-c", str(GOLDEN["n_ctx"]), "--chunks", str(GOLDEN["chunks"]), "--json", "-q"]


def figures(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    assert main([*args, *SAME]) == 0
    (text,) = json.loads(capsys.readouterr().out)["texts"]
    return {name: each["value"] for name, each in text["files"][0]["figures"].items()}


def test_perplexity_of_a_published_file(smollm2: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = figures(capsys, str(smollm2))["perplexity"]
    assert found == pytest.approx(GOLDEN["perplexity"]["smollm2"], rel=0.005)


def test_divergence_of_a_small_file_from_its_source(
    widened_smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    small = tmp_path / "q2_k.gguf"
    args = ["ggq-convert", str(widened_smollm2), str(small), "--type", "q2_k", "-q"]
    args += ["--compat", "llama"]
    monkeypatch.setattr(sys, "argv", args)
    assert convert_cli.main() == 0
    found = figures(capsys, str(small), "--reference", str(widened_smollm2))
    wanted = GOLDEN["widened_smollm2_q2_k"]
    assert found["kld_mean"] == pytest.approx(wanted["kld_mean"], rel=0.02)
    assert found["perplexity"] == pytest.approx(wanted["perplexity"], rel=0.02)
    assert found["reference_perplexity"] == pytest.approx(wanted["reference_perplexity"], rel=0.005)
    assert found["kld_median"] == pytest.approx(wanted["kld_median"], rel=0.04)
    assert found["same_top"] == pytest.approx(wanted["same_top"], abs=0.02)
    assert found["delta_p_rms"] == pytest.approx(wanted["delta_p_rms"], rel=0.05)
