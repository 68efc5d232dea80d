"""The widened SmolLM2, made through ggq-export and ggq-convert and made without them."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

import ggq
from ggq.convert import cli
from ggq.convert.export import cli as export_cli
from tests.standins import write_widened_hf


def test_export_widen_convert_gives_the_widened_file(
    smollm2: Path, widened_smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported, out = tmp_path / "exported", tmp_path / "out.gguf"
    monkeypatch.setattr(sys, "argv", ["ggq-export", str(smollm2), str(exported)])
    assert export_cli.main() == 0
    wide = write_widened_hf(exported, tmp_path / "wide")
    shutil.rmtree(exported)
    monkeypatch.setattr(sys, "argv", ["ggq-convert", str(wide), str(out), "--type", "f32"])
    assert cli.main() == 0
    shutil.rmtree(wide)
    with ggq.open(out) as found, ggq.open(widened_smollm2) as wanted:
        assert found.tensors.keys() == wanted.tensors.keys()
        for name, tensor in wanted.tensors.items():
            assert np.array_equal(found.tensors[name].data, tensor.data), name
            assert tensor.shape[-1] % 256 == 0, name
        for key in ("tokens", "merges", "token_type"):
            key = f"tokenizer.ggml.{key}"
            assert list(found.metadata[key]) == list(wanted.metadata[key])
    out.unlink()
