"""Memory of ggq-run: the file, the KV cache and little more, for the weights are never copied."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import ggq
from tests.tree_copy import ROOT

N_CTX = 640
OTHER = 160e6  # bytes besides file and cache, after a prompt of 512 tokens
LARGE_VOCABULARY, FOR_LARGE = 200_000, 100e6
PROGRAM = """
import sys
from ggq.runtime.cli import main
code = main()
with open("/proc/self/status") as status:
    print(next(line.split()[1] for line in status if line.startswith("VmHWM")), file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
def test_a_warm_run_holds_the_file_once(name: str, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(name)
    with ggq.load(path) as model:
        h, words = model.hparams, " word" * 511
        assert 500 <= len(model.tokenize(words)) <= 520
        cache = 2 * h.n_layer * h.n_head_kv * h.head_dim * 2 * N_CTX
        allowed = path.stat().st_size + cache + OTHER
        allowed += FOR_LARGE if h.n_vocab > LARGE_VOCABULARY else 0
    command = [
        sys.executable, "-c", PROGRAM, str(path), "-p", words, "-no-cnv", "-n", "4",
        "-c", str(N_CTX), "-t", "2",
    ]  # fmt: skip
    for _ in range(2):  # the first one may compile
        done = subprocess.run(command, capture_output=True, cwd=ROOT, env=os.environ, check=True)
    peak = int(done.stderr.split()[-1]) << 10
    print(f"{name}: {peak / 1e6:.1f} MB of {allowed / 1e6:.1f}")
    assert peak <= allowed
