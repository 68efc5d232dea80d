"""Whole files equal to llama-quantize's, byte for byte, for every preset and option.

golden/llama_cpp.json holds the sha256 of what the native tool makes of the same seeded sources.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ggq.convert import cli
from tests.golden.make_llama_cpp import OPTIONS
from tests.oracles import sha256
from tests.quantize_inputs import (
    IMATRIX,
    IMATRIX_DAT,
    SOURCES,
    write_imatrix_dat,
    write_imatrix_gguf,
)

GOLDEN = json.loads((Path(__file__).parent / "golden" / "llama_cpp.json").read_text())
EXTRA = OPTIONS | {
    "": [],
    "imatrix": ["--imatrix", IMATRIX],
    "imatrix.dat": ["--imatrix", IMATRIX_DAT],
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each source, with its importance matrices."""
    folder = tmp_path_factory.mktemp("sources")
    for name, source in SOURCES.items():
        (folder / name).mkdir()
        for path in (
            source.write(folder / name),
            write_imatrix_gguf(source, folder / name),
            write_imatrix_dat(source, folder / name),
        ):
            key = {IMATRIX: f"{name} imatrix", IMATRIX_DAT: f"{name} imatrix.dat"}
            assert sha256(path) == GOLDEN["inputs"][key.get(path.name, name)]
    return folder


@pytest.mark.parametrize("case", GOLDEN["files"])
def test_file_is_that_of_llama_quantize(
    case: str, sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, preset, *option = case.split(" ", 2)
    # The importance file's name is stored in the result, as it was given.
    monkeypatch.chdir(sources / source)
    out = tmp_path / "out.gguf"
    arguments = [f"{source}.gguf", str(out), "--type", preset, "--compat", "llama", "--quiet"]
    monkeypatch.setattr("sys.argv", ["ggq-convert", *arguments, *EXTRA["".join(option)]])
    code = cli.main()
    if GOLDEN["files"][case] is None:
        assert code == 1
        assert not out.exists()
    else:
        assert code == 0
        assert sha256(out) == GOLDEN["files"][case]
