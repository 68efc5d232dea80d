"""tests/bench/quality.py: what is kept of a band, the table, the plot, and what is made once."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from tests.bench import quality, quality_results
from tests.bench.quality_results import OPTIONS, OURS

NAMES = ["llama imatrix", "llama imatrix-output", OURS]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The results' folder of this test."""
    monkeypatch.setattr(quality_results, "FOLDER", tmp_path / "results")
    return tmp_path / "results"


def report(klds: list[float]) -> dict[str, Any]:
    """As ggq-eval says it of files of /some/folder."""
    names = [f"/some/folder/{name}.gguf" for name in NAMES]

    def figures(kld: float) -> dict[str, Any]:
        known = {"perplexity": 20.0, "reference_perplexity": 19.0, "same_top": 0.9, "kld_max": 9.0}
        known |= {"kld_mean": kld, "kld_99_9": 10 * kld}
        return {name: {"value": value, "error": value / 50} for name, value in known.items()}

    ratio = {"value": 0.5, "low": 0.4, "high": 0.6, "below": 1.0}
    return {
        "files": [{"name": name, "nbytes": 1000 + i, "bits_per_weight": 4.5}
                  for i, name in enumerate(names)],
        "texts": [
            {"domain": domain, "n_ctx": 512, "chunks": 4, "tokens": 1024,
             "files": [{"name": name, "figures": figures(kld)}
                       for name, kld in zip(names, klds, strict=True)],
             "against_first": [{"name": name, "ratios": {"kld_mean": ratio, "kld_99_9": ratio}}
                               for name in names[1:]]}
            for domain in ("moby-dick", "rust-book", "all")
        ],
    }  # fmt: skip


def record(band: str = "Q4_K_M", klds: tuple[float, ...] = (0.1, 0.2, 0.05)) -> dict[str, Any]:
    return {
        "model": "smollm2", "seed": 0, "band": band, "options": OPTIONS, "chunks": 4,
        "calibration_tokens": 1024, "date": "2026-01-01", "seconds": 60.0,
        "native": {"text": "moby-dick", "chunks": 8, "llama imatrix": 0.11, OURS: 0.06},
        **quality_results.figures_of(report(list(klds)), NAMES),
    }  # fmt: skip


def cells(folder: Path) -> list[list[str]]:
    """Rows of the table."""
    lines = (folder / "quality.md").read_text(encoding="utf-8").splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| smollm2")]
    return [[cell.strip() for cell in row] for row in rows]


def test_bands_are_added_and_measured_again(folder: Path) -> None:
    quality_results.keep(record())
    quality_results.keep(record("Q2_K"))
    quality_results.keep(record(klds=(0.1, 0.2, 0.04)))
    kept = json.loads((folder / "quality.json").read_text())
    assert [one["band"] for one in kept] == ["Q2_K", "Q4_K_M"]
    assert kept[1]["texts"][0]["files"][OURS]["kld_mean"]["value"] == 0.04
    assert len(cells(folder)) == 6


def test_the_table_holds_ours_against_the_better_of_theirs(folder: Path) -> None:
    quality_results.keep(record())
    moby, rust, whole = cells(folder)
    assert moby[4:10] == ["moby-dick", "1,024", "0.1000", "0.0500", "0.500 (0.400 to 0.600)",
                          "0.50 met"]  # fmt: skip
    assert rust[9] == "0.55 met"
    assert whole[4] == "all"
    quality_results.keep(record(klds=(0.2, 0.08, 0.05)))
    assert cells(folder)[0][6:10] == ["0.0800", "0.0500", "0.625", "0.50 missed"]
    assert "llama-perplexity on 8 chunks of moby-dick" in (folder / "quality.md").read_text()


def test_no_path_of_a_file_is_kept(folder: Path) -> None:
    quality_results.keep(record())
    for path in folder.iterdir():
        assert "/some/folder" not in path.read_text(encoding="utf-8")


def test_the_plot_has_a_point_for_each_file(folder: Path) -> None:
    for band in ("Q4_K_M", "Q2_K"):
        quality_results.keep(record(band))
    plot = (folder / "quality-smollm2-0.svg").read_text(encoding="utf-8")
    titles = [found.text for found in ET.fromstring(plot).iter("{http://www.w3.org/2000/svg}title")]
    assert len(titles) == 4
    assert sum("ggq-convert" in str(title) for title in titles) == 2
    quality_results.save([record() | {"options": "--no-calib"}])
    assert quality_results.plot([record() | {"options": "--no-calib"}]) is None


def test_a_file_is_made_once_and_not_by_halves(tmp_path: Path) -> None:
    made = []

    def make(path: Path) -> None:
        made.append(path)
        path.write_text("half")
        if len(made) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quality._once(tmp_path / "file", make)
    assert not (tmp_path / "file").exists()
    for _ in range(2):
        assert quality._once(tmp_path / "file", make).read_text() == "half"
    assert len(made) == 2


def test_the_peers_text_is_the_one_ggq_calibrates_with(smollm2: Path) -> None:
    text = quality.calibration_text(smollm2, 8192)
    assert "<|im_start|>user" in text
    assert "\N{REPLACEMENT CHARACTER}" not in text[1:-1]
