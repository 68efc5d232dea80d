"""The house rules about files, as tests: import direction, sizes, packages, links, guards."""

from __future__ import annotations

import ast
import importlib.util
import os
import statistics
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ggq

ROOT = Path(__file__).parents[1]
PACKAGES = {"ggq": "ggq", "ggq.runtime": "runtime", "ggq.convert": "convert"}
# What each package may not import.
FORBIDDEN = {
    "ggq": ("ggq.runtime", "ggq.convert"),
    "ggq.runtime": ("ggq.convert",),
    "ggq.convert": (),
}
MAX_LINES = 500
MAX_MEDIAN_LINES = 200


def sources(package: str) -> list[Path]:
    """Python files of a package, without those behind the links in ggq/."""
    return [
        Path(folder, name)
        for folder, _, names in os.walk(ROOT / PACKAGES[package])
        for name in names
        if name.endswith(".py")
    ]


def all_sources() -> list[Path]:
    return [path for package in PACKAGES for path in sources(package)]


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of everything a file imports, wherever it does."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            yield from ((node.lineno, f"{node.module}.{name.name}") for name in node.names)


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_one_way(package: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sources(package)
        if path != ROOT / "ggq" / "__init__.py"  # resolves its public names lazily
        for line, name in imports(path)
        if any(within(name, other) for other in (*FORBIDDEN[package], "convert", "runtime"))
    ]
    assert wrong == []


def test_only_the_compiler_policy_imports_the_compiler() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in all_sources()
        if path.parent != ROOT / "ggq" / "jit"
        for line, name in imports(path)
        if within(name, "numba") or within(name, "llvmlite")
    ]
    assert wrong == []


def is_table(path: Path) -> bool:
    """Whether a file holds data only."""
    tree = ast.parse(path.read_text())
    return not any(isinstance(n, ast.FunctionDef | ast.ClassDef) for n in ast.walk(tree))


def test_files_are_short() -> None:
    lengths = {
        path.relative_to(ROOT): len(path.read_text().splitlines())
        for path in [*all_sources(), *(ROOT / "tests").rglob("*.py")]
        if not is_table(path)
    }
    assert {path: n for path, n in lengths.items() if n > MAX_LINES} == {}
    source = [n for path, n in lengths.items() if path.parts[0] != "tests"]
    assert statistics.median(source) < MAX_MEDIAN_LINES


def test_no_file_is_a_drawer_for_everything() -> None:
    drawers = {"util", "utils", "helper", "helpers", "common", "misc"}
    assert [path for path in all_sources() if path.stem.lstrip("_") in drawers] == []


def test_the_packages_are_the_folders() -> None:
    folders = {
        path.parent.relative_to(ROOT).as_posix().replace("/", ".")
        for path in all_sources()
        if path.name == "__init__.py"
    }
    names = {name if name.startswith("ggq") else f"ggq.{name}" for name in folders}
    assert set(project()["tool"]["setuptools"]["packages"]) == names
    assert project()["tool"]["setuptools"]["package-dir"] == PACKAGES


def test_a_folder_with_sources_is_a_package() -> None:
    assert [p for p in all_sources() if not (p.parent / "__init__.py").exists()] == []


@pytest.mark.parametrize("name", ["convert", "runtime"])
def test_the_links_show_the_installed_shape(name: str) -> None:
    assert (ROOT / "ggq" / name).readlink() == Path("..") / name


@pytest.mark.parametrize("name", ["convert", "runtime"])
def test_a_package_refuses_any_other_name(name: str) -> None:
    spec = importlib.util.spec_from_file_location(name, ROOT / name / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.raises(ImportError, match=rf"as ggq\.{name}, not {name}"):
        spec.loader.exec_module(module)


def test_the_version_is_stated_once() -> None:
    assert project()["project"]["version"] == ggq.__version__


def test_public_names_resolve() -> None:
    for name in ggq.__all__:
        if name != "load":  # needs the compiler; its own tests load it
            assert getattr(ggq, name) is not None
    assert set(ggq.__all__) <= set(dir(ggq))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = ggq.nonsense
