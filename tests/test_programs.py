"""Programs: no operation touches memory outside of its buffers; barriers stand where needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import ggq
from ggq.runtime.graph import Phase
from tests.models import TINY


def run_guarded(path: Path, mode: str) -> None:
    command = [sys.executable, "-X", "faulthandler", "-m", "tests.guarded_programs", path, mode]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"last length: {done.stdout.split()[-1:]}\n{done.stderr}"


@pytest.mark.parametrize("mode", ["rounded", "exact"])
def test_no_operation_leaves_its_buffers(smollm2: Path, mode: str) -> None:
    run_guarded(smollm2, mode)


@pytest.mark.parametrize("name", TINY)
def test_no_operation_of_any_architecture_leaves_its_buffers(name: str, tmp_path: Path) -> None:
    run_guarded(TINY[name].write_gguf(tmp_path / "model.gguf"), "rounded")


@pytest.mark.parametrize("phase", Phase)
def test_a_program_has_few_barriers(phase: Phase, smollm2: Path) -> None:
    """Where the division of work changes: 6 times a layer in decoding, 10 with more tokens."""
    with ggq.load(smollm2, n_threads=1) as model:
        program, _ = model.session(64).program(phase)
    barriers = int((program.operations[:, 0] == 0).sum())
    per_layer = 6 if phase is Phase.DECODE else 10
    assert barriers / model.hparams.n_layer < per_layer + 0.2
