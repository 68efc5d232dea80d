"""Names of models: files, repositories and their quantizations, against a stand-in hub."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ggq.errors import NotFoundError, UsageError
from ggq.runtime.hub import HubName, choose, find_model, hub_name, with_shards
from tests.hub_server import REPO, HubServer, hub_environment, serving

FILES = [
    "README.md",
    "mmproj-model-Q4_K_M.gguf",
    "model-Q2_K.gguf",
    "model-Q4_K_M.gguf",
    "model-Q8_0-00001-of-00002.gguf",
    "model-Q8_0-00002-of-00002.gguf",
    "sub/model.IQ4_XS.gguf",
]


@pytest.mark.parametrize(
    "name, wanted",
    [
        ("org/name", HubName("org/name")),
        ("org/name:Q8_0", HubName("org/name", "Q8_0")),
        ("hf.co/org/name:q4_k_m", HubName("org/name", "q4_k_m")),
        ("https://huggingface.co/org/name", HubName("org/name")),
        ("hf://org/name@dev/a/b.gguf", HubName("org/name", file="a/b.gguf", revision="dev")),
        ("hf://org/name:Q8_0", HubName("org/name", "Q8_0")),
        ("org/na.me-1_0@main:Q4_0", HubName("org/na.me-1_0", "Q4_0", revision="main")),
    ],
)
def test_names(name: str, wanted: HubName) -> None:
    assert hub_name(name) == wanted


@pytest.mark.parametrize("name", ["", "name", "a/b/c", "../etc/passwd", "org/", "o rg/name"])
def test_what_is_not_a_name(name: str) -> None:
    with pytest.raises(UsageError):
        hub_name(name)


@pytest.mark.parametrize(
    "quant, wanted",
    [
        ("", "model-Q4_K_M.gguf"),
        ("q2_k", "model-Q2_K.gguf"),
        ("Q8_0", "model-Q8_0-00001-of-00002.gguf"),
        ("iq4_xs", "sub/model.IQ4_XS.gguf"),
    ],
)
def test_the_file_of_a_quantization(quant: str, wanted: str) -> None:
    assert choose(FILES, HubName("org/name", quant)) == wanted


def test_without_a_favourite_the_first_model_is_taken() -> None:
    assert choose(["mmproj-x.gguf", "a-F16.gguf", "b-F16.gguf"], HubName("o/n")) == "a-F16.gguf"


def test_an_absent_quantization_lists_the_models() -> None:
    with pytest.raises(NotFoundError, match=r"org/name has no file for Q5_0; .*model-Q2_K"):
        choose(FILES, HubName("org/name", "Q5_0"))
    with pytest.raises(NotFoundError, match="no GGUF file; its models: none"):
        choose(["README.md"], HubName("org/name"))


def test_all_shards_are_fetched() -> None:
    assert with_shards(FILES, "model-Q8_0-00001-of-00002.gguf") == FILES[4:6]


def test_an_existing_path_is_taken_before_the_hub(tmp_path: Path) -> None:
    assert find_model(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("name", ["missing.gguf", "no/such/folder/missing.gguf", "missing"])
def test_a_missing_file_is_said_to_be_missing(name: str) -> None:
    with pytest.raises(NotFoundError, match=rf"{name}: no such file"):
        find_model(name)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    folder = tmp_path / "hub"
    folder.mkdir()
    for name in FILES[:6]:
        (folder / name).write_text(name)
    with serving(folder) as server:
        yield server


def resolved(name: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """find_model in a fresh process, because huggingface_hub reads its settings on import."""
    code = (
        "import sys; from ggq.cli_support import run; from ggq.runtime.hub import find_model;"
        "sys.exit(run(lambda: print(find_model(sys.argv[1]).read_text()), 'ggq-run'))"
    )
    command = [sys.executable, "-W", "error", "-c", code, name]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)


def test_a_repository_is_fetched_once_and_found_offline(hub: HubServer, tmp_path: Path) -> None:
    online = hub_environment(hub.url, tmp_path / "home")
    first = resolved(f"{REPO}:Q8_0", online)
    assert (first.stdout, first.returncode) == ("model-Q8_0-00001-of-00002.gguf\n", 0), first
    cached = {path.name for path in (tmp_path / "home").rglob("*.gguf")}
    assert cached == {"model-Q8_0-00001-of-00002.gguf", "model-Q8_0-00002-of-00002.gguf"}

    asked = len(hub.requests)
    again = resolved(f"{REPO}:Q8_0", online | {"HF_HUB_OFFLINE": "1"})
    assert (again.stdout, again.returncode) == (first.stdout, 0), again
    assert len(hub.requests) == asked


@pytest.mark.parametrize("name", ["acme/absent", f"{REPO}:Q5_0", f"hf://{REPO}/absent.gguf"])
def test_what_the_hub_does_not_have_ends_with_4(hub: HubServer, tmp_path: Path, name: str) -> None:
    done = resolved(name, hub_environment(hub.url, tmp_path / "home"))
    assert done.returncode == 4, done
    assert done.stderr.startswith("ggq-run: error: acme/")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("fault", ["gated", "500"])
def test_a_hub_that_refuses_ends_with_4(hub: HubServer, tmp_path: Path, fault: str) -> None:
    hub.faults["*"] = fault
    done = resolved(REPO, hub_environment(hub.url, tmp_path / "home"))
    assert done.returncode == 4, done
    assert done.stderr.count("\n") == 1


def test_no_hub_and_nothing_cached_ends_with_4(tmp_path: Path) -> None:
    done = resolved(REPO, hub_environment("http://127.0.0.1:9", tmp_path))
    assert done.returncode == 4, done
    assert "not reachable" in done.stderr
