"""What ggq-convert does where its options leave it open."""

from __future__ import annotations

import pytest

from ggq.convert import cli_defaults
from ggq.convert.cli_defaults import PLAIN, Combination, combination, needs_calibration
from ggq.convert.cli_options import parser

BEST = Combination("guided", "fisher", "auto")

CASES = [
    ([], BEST),
    (["--type", "IQ2_XXS"], BEST),
    (["--target-bpw", "4"], BEST),
    (["--calib", "self"], BEST),
    (["--type", "q4_0"], Combination("guided", "preset", "auto")),
    (["--pure"], Combination("guided", "preset", "auto")),
    (["--type", "f16"], PLAIN),
    (["--type", "copy"], PLAIN),
    (["--compat", "llama"], PLAIN),
    (["--no-calib"], Combination("hqq", "preset", "none")),
    (["--imatrix", "x.gguf"], Combination("imatrix", "preset", "none")),
    (["--method", "hqq"], Combination("hqq", "preset", "none")),
    (["--method", "gptq"], Combination("gptq", "preset", "none")),
    (["--alloc", "fisher"], Combination("guided", "fisher", "none")),
    (["--transform", "awq"], Combination("guided", "preset", "awq")),
    (["--method", "llama", "--max-kld", "0.1"], Combination("llama", "fisher", "none")),
]


@pytest.mark.parametrize(("options", "wanted"), CASES)
def test_what_is_left_open_suits_what_is_said(
    options: list[str], wanted: Combination, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_defaults, "DEFAULT", BEST)
    assert combination(parser().parse_args(["model", "out.gguf", *options])) == wanted


@pytest.mark.parametrize("options", [["--no-calib"], ["--compat", "llama"], ["--imatrix", "x.dat"],
                                     ["--type", "bf16"], ["--method", "hqq"]])  # fmt: skip
def test_no_text_is_run_where_none_is_wanted(
    options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_defaults, "DEFAULT", BEST)
    assert needs_calibration(parser().parse_args(["model", "out.gguf"]))
    assert not needs_calibration(parser().parse_args(["model", "out.gguf", *options]))
