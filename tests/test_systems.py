"""macOS and Windows, as far as Linux can tell: what is missing there is missed by nobody."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.models import TINY
from tests.tree_copy import ROOT

TYPE = "q8_0"


def converted(folder: Path, system: str, source: Path) -> bytes:
    """The file made as on a system, where all modules can be imported too."""
    target = folder / f"{system}.gguf"
    done = subprocess.run(
        [sys.executable, "-m", "tests.other_system", system, str(source), str(target), TYPE],
        cwd=ROOT,
        env=os.environ | {"LOCALAPPDATA": str(folder)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100
    return target.read_bytes()


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_models_are_converted_as_on_linux(system: str, tmp_path: Path) -> None:
    source = TINY["llama"].write_hf(tmp_path / "model")
    file = converted(tmp_path, system, source)
    assert {path.name for path in tmp_path.iterdir()} == {"model", f"{system}.gguf"}
    assert file == converted(tmp_path, "linux", source)
