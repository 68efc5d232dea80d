"""The page: well-formed, self-contained, and with every figure where it belongs."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

import ggq
from ggq.convert.eval.cli import main
from ggq.convert.eval.page import short_names
from ggq.convert.eval.tensor_errors import tensor_errors
from ggq.convert.pages.plots import Point, heat_map, histogram, percent, points, tensor_maps
from ggq.convert.pages.svg import Axis, as_file, round_step
from tests.eval_files import TEXT, write_pair


def test_the_page_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reference, candidate = write_pair(tmp_path)
    text, out = tmp_path / "sea.txt", tmp_path / "out.html"
    text.write_text(TEXT)
    assert main([str(candidate), str(reference), "--reference", str(reference), "-f", str(text),
                 "-c", "32", "-q", "-t", "1", "--html", str(out)]) == 0  # fmt: skip
    page = out.read_text(encoding="utf-8")
    assert not re.search(r"(src|href)=|url\(|@import", page)
    plots = re.findall(r"<svg.*?</svg>", page, re.S)
    assert len(plots) == 4  # divergence against size, delta p, one map of errors for each file
    for plot in plots:
        ET.fromstring(plot)
    mean = re.search(r"([0-9.]+) ±[^<]*</td><td>[^<]*</td>", page)
    assert mean
    assert "blk" not in capsys.readouterr().err
    cells = re.findall(r"<title>3 ffn_down: ([^<]*)</title>", page)
    assert float(cells[0]) > 0
    assert float(cells[1]) == 0


def test_a_page_without_reference_has_no_plots(tmp_path: Path) -> None:
    reference, _ = write_pair(tmp_path)
    text, out = tmp_path / "sea.txt", tmp_path / "out.html"
    text.write_text(TEXT)
    assert main([str(reference), "-f", str(text), "-c", "32", "-q", "--html", str(out)]) == 0
    assert "<svg" not in out.read_text(encoding="utf-8")


def test_a_page_in_a_folder_there_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reference, _ = write_pair(tmp_path)
    (tmp_path / "sea.txt").write_text(TEXT)
    out = str(tmp_path / "none" / "out.html")
    assert main([str(reference), "-f", str(tmp_path / "sea.txt"), "--html", out]) == 4
    assert "make it first" in capsys.readouterr().err


def test_errors_of_tensors_are_relative_norms(tmp_path: Path) -> None:
    reference, candidate = write_pair(tmp_path)
    with ggq.open(reference) as wanted, ggq.open(candidate) as found:
        errors = tensor_errors(found.tensors, wanted.tensors)
        name = "blk.1.ffn_up.weight"
        a, b = (r.tensors[name].dequantize().astype(np.float64) for r in (found, wanted))
        assert errors[name] == pytest.approx(np.linalg.norm(a - b) / np.linalg.norm(b), rel=1e-5)
        assert "output_norm.weight" not in errors
        assert set(tensor_errors(wanted.tensors, wanted.tensors).values()) == {0.0}


@pytest.mark.parametrize(("low", "high", "log", "ticks"), [
    (0, 10, False, [0, 2, 4, 6, 8, 10]),
    (-0.35, 0.4, False, [-0.2, 0, 0.2, 0.4]),
    (0.02, 0.6, True, [0.02, 0.05, 0.1, 0.2, 0.5]),
    (1e-9, 1, True, [10.0**e for e in range(-9, 1)]),
    (0.028, 0.063, True, [0.03, 0.04, 0.05, 0.06]),
])  # fmt: skip
def test_ticks_are_round_numbers(low: float, high: float, log: bool, ticks: list[float]) -> None:
    assert Axis("", low, high, 0, 100, log).ticks() == pytest.approx(ticks)


def test_axes_go_from_end_to_end() -> None:
    assert Axis("", 2, 4, 10, 100).at(2) == 10
    assert Axis("", 2, 4, 10, 100).at(4) == 110
    assert Axis("", 1, 100, 0, 100, log=True).at(10) == pytest.approx(50)
    assert [round_step(x) for x in (0.03, 0.2, 1, 2.1, 70)] == pytest.approx([0.05, 0.2, 1, 5, 100])


def test_plots_of_one_point_of_zeros_and_of_names_with_markup() -> None:
    for plot in (
        points({"<a>": [Point(4.5, 0.0, 0.0)]}, ("x", "y")),
        points({"a": [Point(4.5, 0.1, 0.5, "<n>")], "b & c": [Point(4.5, 0.1, 0)]}, ("x", "y")),
        histogram(["<a>"], [[1.0, 0.0]], [-1.0, 0.0, 1.0], ("x", "y")),
        heat_map(["", "0"], ["<q>"], {("0", "<q>"): 0.0}, (1.0, 1.0), percent),
        *tensor_maps({"zeros": {"blk.0.ffn_up.weight": 0.0}})[1:],
    ):
        ET.fromstring(plot)
        assert "nan" not in plot


def test_points_of_a_series_are_joined_in_order() -> None:
    each = [Point(4.0, 0.2, 0.01, "middle"), Point(3.0, 0.4, 0.01), Point(5.0, 0.1, 0.01)]
    plot = points({"one": each, "two": [Point(4.0, 0.3, 0.01)]}, ("x", "y"))
    (joined,) = re.findall(r'points="([^"]*)"', plot)
    places = [tuple(map(float, place.split(","))) for place in joined.split()]
    assert places == sorted(places)
    marked = {(float(a), float(b)) for a, b in re.findall(r'cx="([^"]*)" cy="([^"]*)"><t', plot)}
    assert set(places) < marked
    assert [plot.count(f">{name}<") for name in ("one", "two", "middle")] == [1, 1, 1]


def test_no_text_of_a_legend_is_cut_off() -> None:
    names = [f"smollm2-135m-{i:02}-Q4_K_M.gguf" for i in range(12)]
    tree = ET.fromstring(points({name: [Point(4.5, 0.1, 0.0)] for name in names}, ("x", "y")))
    width, height = (float(tree.attrib[side]) for side in ("width", "height"))
    places = [(float(t.attrib["x"]), float(t.attrib["y"])) for t in tree.findall("text")]
    assert len(set(places)) == len(names)
    for x, y in places:
        assert x + 6 * len(names[0]) < width
        assert 0 < y < height


def test_a_plot_as_a_file_brings_its_style() -> None:
    plot = as_file(points({"a": [Point(4.5, 0.1, 0.0)]}, ("x", "y")))
    tree = ET.fromstring(plot)
    assert tree.tag == "{http://www.w3.org/2000/svg}svg"
    (style,) = tree.findall("{http://www.w3.org/2000/svg}style")
    assert style.text is not None
    assert "prefers-color-scheme: dark" in style.text


def test_maps_of_several_files_have_one_scale() -> None:
    maps = tensor_maps({
        "fine": {"blk.0.ffn_up.weight": 0.01},
        "coarse": {"blk.0.ffn_up.weight": 0.1, "token_embd.weight": 0.03},
    })  # fmt: skip
    shades = [float(x) for x in re.findall(r'fill-opacity="([^"]*)"', "".join(maps))]
    assert shades[0] < shades[1] < shades[2] == 1  # the embedding's row is above the layers


def test_names_are_short_where_they_can_be() -> None:
    assert short_names(["a/x.gguf", "b/y.gguf"]) == {"a/x.gguf": "x.gguf", "b/y.gguf": "y.gguf"}
    assert short_names(["a/x.gguf", "b/x.gguf"])["b/x.gguf"] == "b/x.gguf"
