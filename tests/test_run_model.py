"""ggq-run with a real model file: the tool, the Python API and the hub give the same text."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import ggq
from tests.hub_server import REPO, hub_environment, serving
from tests.models import TINY

ROOT = Path(__file__).resolve().parent.parent
COMMAND = [
    sys.executable, "-W", "error", "-c",
    "import sys; from ggq.runtime.cli import main; sys.exit(main())",
]  # fmt: skip
PROMPT = "The rain in the town"
SAME_TEXT = ["-p", PROMPT, "-n", "12", "-s", "5", "-c", "64", "-t", "1"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return TINY["llama"].write_gguf(tmp_path_factory.mktemp("hub") / "tiny-F32.gguf")


def run(*args: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    env = os.environ | environment
    return subprocess.run([*COMMAND, *args], capture_output=True, cwd=ROOT, env=env, timeout=120)


@pytest.mark.parametrize("mode", ["-no-cnv", "-cnv"])
def test_the_tool_writes_what_the_python_api_returns(model: Path, mode: str) -> None:
    with ggq.load(model, n_threads=1) as loaded:
        ask = loaded.generate if mode == "-no-cnv" else loaded.chat
        wanted = ask(PROMPT, n_ctx=64, max_tokens=12, seed=5)
    done = run(str(model), *SAME_TEXT, mode)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode() == wanted + "\n"


def test_reading_into_memory_and_a_pipe_change_nothing(model: Path) -> None:
    plain = run("-m", str(model), *SAME_TEXT, "-no-cnv")
    args = [str(model), *SAME_TEXT[2:], "-no-cnv", "--no-mmap"]
    piped = subprocess.run(
        [*COMMAND, *args], input=PROMPT.encode(), capture_output=True, cwd=ROOT, timeout=120
    )
    assert piped.returncode == 0, piped.stderr
    assert piped.stdout == plain.stdout


def test_a_model_of_the_hub_is_fetched_and_then_found_offline(model: Path, tmp_path: Path) -> None:
    here = run(str(model), *SAME_TEXT, "-no-cnv")
    with serving(model.parent) as hub:
        environment = hub_environment(hub.url, tmp_path)
        first = run("-hf", REPO, *SAME_TEXT, "-no-cnv", **environment)
        asked = len(hub.requests)
        offline = environment | {"HF_HUB_OFFLINE": "1"}
        again = run(f"{REPO}:F32", *SAME_TEXT, "-no-cnv", **offline)
        assert len(hub.requests) == asked
    assert first.returncode == 0, first.stderr
    assert first.stdout == again.stdout == here.stdout


def test_the_published_model_greets(smollm2: Path) -> None:
    done = run(str(smollm2), "-p", "Say hello.", "-n", "8", "--temp", "0", "-c", "256")
    assert done.returncode == 0, done.stderr
    assert b"ello" in done.stdout


def test_a_file_that_is_no_model_ends_with_3(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"not a model at all")
    done = run(str(tmp_path / "x.gguf"), "-p", "x")
    assert done.returncode == 3
    assert done.stderr.startswith(b"ggq-run: error: ")
    assert done.stderr.count(b"\n") == 1


def test_a_full_disk_for_the_text_is_one_line(model: Path) -> None:
    with open(os.devnull if not Path("/dev/full").exists() else "/dev/full", "wb") as full:
        done = subprocess.run(
            [*COMMAND, str(model), *SAME_TEXT, "-no-cnv"],
            stdout=full, stderr=subprocess.PIPE, cwd=ROOT, timeout=120,
        )  # fmt: skip
    assert b"Traceback" not in done.stderr
    assert done.returncode == (6 if Path("/dev/full").exists() else 0)
