"""The oracles are kept whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import oracles


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(oracles, "cache_dir", lambda: tmp_path)
    return tmp_path


def test_a_failed_fetch_leaves_nothing_and_the_next_one_works(own_cache: Path) -> None:
    def fail(target: Path) -> None:
        target.write_bytes(b"half")
        raise RuntimeError("cut off")

    with pytest.raises(RuntimeError, match="cut off"):
        oracles.once("thing", fail)
    assert [p.name for p in own_cache.iterdir()] == [".thing.lock"]
    assert oracles.once("thing", Path.touch).exists()


def test_what_is_there_is_not_fetched_again(own_cache: Path) -> None:
    (own_cache / "thing").write_bytes(b"kept")

    def never(target: Path) -> None:
        raise AssertionError("fetched again")

    assert oracles.once("thing", never).read_bytes() == b"kept"


def test_the_published_models_are_gguf_files(smollm2: Path, gemma3: Path) -> None:
    for path in (smollm2, gemma3):
        with path.open("rb") as file:
            assert file.read(4) == b"GGUF"


def test_the_source_tree_holds_the_data_the_tests_read(llama_cpp_tree: Path) -> None:
    for name in ("models/ggml-vocab-llama-spm.gguf", "tests/snapshots", "models/templates"):
        assert (llama_cpp_tree / name).exists(), name
