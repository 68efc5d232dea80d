"""Programs: no operation touches memory outside of its buffers; barriers stand where needed."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import ggq
from ggq.jit import cpu
from ggq.runtime.graph import Phase
from tests.models import TINY

# Heads of 32, of which the blocks of q8_0 and q4_0 are made.
WIDE_HEADS = replace(TINY["llama"], config=TINY["llama"].config | {"hidden_size": 128})


def run_guarded(path: Path, *modes: str, form: str = "") -> None:
    command = [sys.executable, "-X", "faulthandler", "-m", "tests.guarded_programs", path, *modes]
    environment = os.environ | {"GGQ_CPU": form}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, f"last length: {done.stdout.split()[-1:]}\n{done.stderr}"


@pytest.mark.parametrize("mode", ["rounded", "exact"])
def test_no_operation_leaves_its_buffers(smollm2: Path, mode: str) -> None:
    run_guarded(smollm2, mode)


@pytest.mark.parametrize("name", TINY)
def test_no_operation_of_any_architecture_leaves_its_buffers(name: str, tmp_path: Path) -> None:
    run_guarded(TINY[name].write_gguf(tmp_path / "model.gguf"), "rounded")


@pytest.mark.parametrize("form", sorted({cpu.forms()[0], cpu.forms()[-1]}))
@pytest.mark.parametrize(
    "types", [("f32", "bf16"), ("bf16", "q4_0"), ("q8_0", "f32"), ("q4_0", "q8_0")]
)
def test_no_operation_leaves_a_cache_of_any_type(
    types: tuple[str, str], form: str, tmp_path: Path
) -> None:
    path = WIDE_HEADS.write_gguf(tmp_path / "model.gguf")
    run_guarded(path, "rounded", *types, form=form)


@pytest.mark.parametrize("phase", Phase)
def test_a_program_has_few_barriers(phase: Phase, smollm2: Path) -> None:
    """Where the division of work changes: 6 times a layer in decoding, 10 with more tokens."""
    with ggq.load(smollm2, n_threads=1) as model:
        program, _ = model.session(64).program(phase)
    barriers = int((program.operations[:, 0] == 0).sum())
    per_layer = 6 if phase is Phase.DECODE else 10
    assert barriers / model.hparams.n_layer < per_layer + 0.2
