"""kill -9 at every moment and a full disk at every size leave nothing that looks like a model.

The children of tests/killed_writer.py are forked from one process, which costs milliseconds each.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
SHARDS = [f"m-0000{i}-of-00004.gguf" for i in (1, 2, 3, 4)]


def run(job: str, folder: Path, form: str) -> tuple[list[dict[str, Any]], str]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.killed_writer", job, str(folder), form],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


@pytest.mark.parametrize("form", ["single", "shards"])
@pytest.mark.parametrize("job", ["calls", "times"])
def test_a_killed_writer_leaves_no_half_model(job: str, form: str, tmp_path: Path) -> None:
    results, _ = run(job, tmp_path, form)
    killed = [result for result in results if result["exit"] == -9]
    assert len(killed) > 20
    assert {result["exit"] for result in results} <= {0, -9}
    names = ["m.gguf"] if form == "single" else SHARDS
    for result in results:
        assert result["complete"]
        assert result["sound_after_next_write"]
        # A model is found through its first file: without that, the others are no model.
        assert names[0] not in result["visible"] or result["visible"] == names


@pytest.mark.parametrize("form", ["single", "shards"])
def test_a_full_disk_leaves_nothing(form: str, tmp_path: Path) -> None:
    results, stderr = run("limits", tmp_path, form)
    assert len(results) > 5
    for result in results:
        assert result["exit"] == 6
        assert (result["visible"], result["hidden"]) == ([], 0)
        assert result["sound_after_next_write"]
    lines = stderr.splitlines()
    assert len(lines) == len(results)
    for line in lines:
        assert line.startswith("writer: error: ")
        assert "no space left while writing" in line
