"""Hub ids and downloads, against a stand-in server on the loopback."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ggq.convert.sources.hub import HubId, download, parse_hub_id, wanted_files
from ggq.convert.sources.open import open_source
from ggq.errors import (
    DownloadError,
    GGQError,
    HostileNameError,
    MissingFileError,
    NotFoundError,
    PickleError,
)
from tests.hub_server import COMMIT, REPO, HubServer, hub_environment, serving
from tests.models import TINY

TINY_ID = HubId(REPO)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """The tiny Llama as REPO, and an empty cache."""
    import huggingface_hub
    from huggingface_hub import constants

    with serving(TINY["llama"].write_hf(tmp_path / "repo")) as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
        monkeypatch.setattr(huggingface_hub.HfApi, "__init__", _api_of(server.url))
        # The library waits between attempts; here every server answers at once.
        monkeypatch.setattr("time.sleep", lambda _: None)
        yield server


def _api_of(url: str) -> Any:
    from huggingface_hub import HfApi

    original = HfApi.__init__

    def init(self: HfApi, endpoint: str | None = None, **kw: Any) -> None:
        original(self, endpoint=endpoint or url, **kw)

    return init


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("acme/tiny-llama", HubId("acme/tiny-llama")),
        ("a/b@v1.0", HubId("a/b", "v1.0")),
        ("a/b@refs/pr/3", HubId("a/b", "refs/pr/3")),
        ("gpt2", None),
        ("a/b/c", None),
        ("../b", None),
        ("a/..", None),
        ("a/b@../../x", None),
        ("a/b@", None),
        ("/a/b", None),
        ("a\\b/c", None),
        ("a/b\n", None),
        ("a/b c", None),
        ("a--b/c", None),
        ("a" * 97 + "/b", None),
    ],
)
def test_hub_ids(text: str, wanted: HubId | None) -> None:
    assert parse_hub_id(text) == wanted


def test_only_what_is_needed_is_fetched(hub: HubServer) -> None:
    for name in ("README.md", "pytorch_model.bin", "modeling_x.py", "consolidated.safetensors"):
        (hub.folder / name).write_bytes(b"not wanted")
    folder = download(TINY_ID)
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    for path in folder.iterdir():
        assert path.read_bytes() == (hub.folder / path.name).read_bytes()
    assert folder.name == COMMIT


def test_hub_id_as_source(hub: HubServer) -> None:
    source = open_source(f"{REPO}@v1.0")
    assert source.metadata["general.name"] == "tiny-llama"
    assert len(source.tensors) == len(TINY["llama"].tensors())


def test_second_time_comes_from_the_cache(hub: HubServer) -> None:
    first = download(TINY_ID)
    hub.requests.clear()
    assert download(TINY_ID) == first
    assert not [request for request in hub.requests if "GET" in request and "resolve" in request]


@pytest.mark.parametrize("fault", ["500", "503", "429"])
def test_hub_in_trouble(fault: str, hub: HubServer) -> None:
    hub.faults["*"] = fault
    with pytest.raises(NotFoundError, match="cannot be reached, and the model is not in the cache"):
        download(TINY_ID)
    hub.faults.clear()
    folder = download(TINY_ID)
    hub.faults["*"] = fault
    assert download(TINY_ID) == folder


def test_offline(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    folder = download(TINY_ID)
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert download(TINY_ID) == folder
    assert hub.requests == []
    with pytest.raises(NotFoundError, match="not in the cache"):
        download(HubId("acme/other"))


@pytest.mark.parametrize(
    ("hub_id", "fault", "message"),
    [
        (HubId("acme/none"), "", "no such directory, and no such model on the hub"),
        (HubId(REPO, "v9"), "", "no such revision"),
        (TINY_ID, "gated", "gated: accept its terms"),
    ],
)
def test_not_found(hub_id: HubId, fault: str, message: str, hub: HubServer) -> None:
    hub.faults["*"] = fault
    with pytest.raises(NotFoundError, match=message):
        download(hub_id)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("fault", ["other content", "html", "500", "503"])
def test_wrong_delivery_is_refused_and_not_kept(name: str, fault: str, hub: HubServer) -> None:
    hub.faults[name] = fault
    with pytest.raises(DownloadError, match=r"try again|download failed"):
        download(TINY_ID)
    hub.faults.clear()
    folder = download(TINY_ID)
    assert (folder / name).read_bytes() == (hub.folder / name).read_bytes()


def test_cut_connection_is_resumed(hub: HubServer) -> None:
    hub.faults["model.safetensors"] = "cut"
    folder = download(TINY_ID)
    wanted = (hub.folder / "model.safetensors").read_bytes()
    assert (folder / "model.safetensors").read_bytes() == wanted
    fetched = [r for r in hub.requests if r.startswith("GET") and r.endswith("model.safetensors")]
    assert len(fetched) == 2


HOSTILE = [
    "../../evil.safetensors",
    "/etc/cron.d/evil",
    "a/../../model.safetensors",
    "..\\evil.safetensors",
    "model\n.safetensors",
    "model\x1b[2J.safetensors",
    "./config.json",
    "a//config.json",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_refused(name: str, hub: HubServer, tmp_path: Path) -> None:
    hub.extra_names = [name]
    with pytest.raises(HostileNameError, match="do not use this repository"):
        download(TINY_ID)
    assert not list(tmp_path.rglob("*evil*"))
    assert not [request for request in hub.requests if "resolve" in request]


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        (["config.json", "pytorch_model.bin"], PickleError, "pickle"),
        (["config.json", "model-Q4_K_M.gguf"], MissingFileError, "model-Q4_K_M.gguf"),
        (["config.json"], MissingFileError, r"holds no model\*\.safetensors"),
        (["sub/model.safetensors", "config.json"], MissingFileError, "holds no"),
    ],
)
def test_repositories_without_checkpoint(
    names: list[str], error: type[GGQError], message: str
) -> None:
    with pytest.raises(error, match=message):
        wanted_files(names, TINY_ID)


def test_tool_finds_hub_and_cache_through_the_environment(hub: HubServer, tmp_path: Path) -> None:
    """In a process of its own, with nothing patched."""
    env = hub_environment(hub.url, tmp_path / "home")
    code = "import sys; from ggq.convert.cli import main; sys.exit(main())"
    out = tmp_path / "out.gguf"
    command = [sys.executable, "-c", code, REPO, str(out), "--type", "f32"]
    done = subprocess.run(
        command, env=env, capture_output=True, text=True, cwd=Path(__file__).parents[1]
    )
    assert done.returncode == 0, done.stderr
    assert out.stat().st_size > 500_000
    assert list((tmp_path / "home").rglob("model.safetensors"))
