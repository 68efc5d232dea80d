"""Kept machine code: keyed by all it depends on, private, never loaded damaged, removed if old."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ggq.jit import Kernel, cpu, prepare
from ggq.jit import store as kept
from tests.kernel_calls import filled
from tests.test_jit import DEQUANTIZE, twice
from tests.tree_copy import ROOT, copy_tree, run_in

KEY = "from ggq.jit import store; print(store._key())"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for machine code."""
    monkeypatch.setenv("GGQ_CACHE_DIR", str(tmp_path / "kernels"))
    return tmp_path / "kernels"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the source tree."""
    return copy_tree(tmp_path_factory.mktemp("tree"))


def files(folder: Path) -> list[Path]:
    """What is kept, but for the description of the processor."""
    return [path for path in folder.rglob("*.o") if path.is_file()]


def test_code_is_kept_privately_and_compiled_once(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ggq")
    kernels = [Kernel("test.kept", twice, 2), Kernel("test.kept_too", twice, 2)]
    prepare(kernels)
    messages = [record.getMessage() for record in caplog.records]
    assert messages == [
        f"compiling kernel {n} of 2 for this processor (once): {k.name}"
        for n, k in enumerate(kernels, 1)
    ]
    assert sorted(path.name for path in files(folder)) == [
        f"ggq_test_kept.{cpu.form()}.o",
        f"ggq_test_kept_too.{cpu.form()}.o",
    ]
    for path in files(folder):
        assert not path.stat().st_mode & 0o077
        assert not path.parent.stat().st_mode & 0o077
        data = path.read_bytes()
        assert data[:32] == hashlib.blake2b(data[32:], digest_size=32).digest()
    caplog.clear()
    prepare(kernels)
    prepare([Kernel("test.kept", twice, 2)])
    assert not caplog.records
    out = filled("i8", 1)
    kernels[1](21, out.ctypes.data)
    assert out[0] == 42


@pytest.mark.parametrize(
    ("changed", "matters"),
    [
        ("ggq/blocks/q4.py", True),
        ("ggq/jit/lang.py", True),
        ("runtime/kernels/norm.py", True),
        ("ggq/reader.py", False),
    ],
)
def test_code_is_compiled_anew_when_a_kernel_source_changed(
    tree: Path, changed: str, matters: bool
) -> None:
    before = run_in(tree, KEY)
    path = tree / changed
    original = path.read_bytes()
    path.write_bytes(original + b"\n# another line\n")
    try:
        assert (run_in(tree, KEY) != before) == matters
    finally:
        path.write_bytes(original)
    assert run_in(tree, KEY) == before


def test_a_new_source_file_counts_as_a_change(tree: Path) -> None:
    before = run_in(tree, KEY)
    path = tree / "ggq/blocks/_another.py"
    path.write_text("")
    assert run_in(tree, KEY) != before
    path.unlink()


def test_each_level_of_optimization_has_code_of_its_own() -> None:
    assert run_in(ROOT, KEY, NUMBA_OPT="1") != run_in(ROOT, KEY)
    assert run_in(ROOT, KEY, NUMBA_CPU_NAME="generic") == run_in(ROOT, KEY)


def test_each_form_has_code_of_its_own(tmp_path: Path) -> None:
    results = {
        run_in(ROOT, DEQUANTIZE, GGQ_CACHE_DIR=str(tmp_path), GGQ_CPU=form).split()[0]
        for form in cpu.forms()
    }
    assert len(results) == 1
    assert len(files(tmp_path)) == len(cpu.forms())


def test_each_processor_has_code_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    own_key = kept._key.__wrapped__
    before = own_key()
    assert own_key() == before
    monkeypatch.setattr(kept, "_processor", lambda: "another")
    assert own_key() != before


def test_every_file_that_makes_kernels_counts() -> None:
    counted = {path.resolve() for path in kept._kernel_sources()}
    packages = ("ggq", "convert", "runtime")
    files = (path for name in packages for path in (ROOT / name).rglob("*.py"))
    makers = {path for path in files if " Kernel(" in path.read_text(encoding="utf-8")}
    assert len(makers) > 5
    assert makers <= counted


@pytest.mark.skipif(sys.platform != "linux", reason="the file is Linux's")
def test_a_processor_is_what_decides_the_instructions() -> None:
    info = Path("/proc/cpuinfo").read_text()
    (flags,) = {line.split(":")[1] for line in info.splitlines() if line.startswith("flags")}
    assert flags in kept._processor()
    assert "MHz" not in kept._processor()


def entry_of(symbol: str) -> Path:
    kept.save(symbol, b"machine code")
    path = kept._place() / symbol
    assert kept.load(symbol) == b"machine code"
    return path


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "longer"])
def test_damaged_code_is_not_loaded(
    damage: str, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = entry_of("ggq_x")
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[40] ^= 1
    path.write_bytes({"cut": data[:-1], "empty": b"", "longer": data + b"!"}.get(damage, data))
    assert kept.load("ggq_x") is None
    assert caplog.messages == [f"ignoring {path}: damaged"]


def test_a_damaged_file_is_replaced(folder: Path) -> None:
    first = Kernel("test.damaged", twice, 2)
    prepare([first])
    (path,) = files(folder)
    good = path.read_bytes()
    path.write_bytes(good[:100])
    code = """
from ggq.jit import Kernel
from tests.test_jit import twice
import numpy as np
out = np.zeros(1, np.int64)
Kernel("test.damaged", twice, 2)(21, out.ctypes.data)
print(out[0])
"""
    assert run_in(ROOT, code) == "42\n"
    assert path.read_bytes() == good


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="Windows has no such permissions")
@pytest.mark.parametrize("what", ["folder", "file", "link"])
def test_code_others_can_write_is_not_loaded(
    what: str, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = entry_of("ggq_x")
    if what == "link":
        elsewhere = tmp_path / "elsewhere"
        shutil.move(path.parent, elsewhere)
        path.parent.symlink_to(elsewhere)
    else:
        (path.parent if what == "folder" else path).chmod(0o777)
    assert kept.load("ggq_x") is None
    assert caplog.messages == [f"ignoring {path}: not owned by you alone"]
    if what != "file":
        kept.save("ggq_y", b"more")
        assert not (path.parent / "ggq_y.o").exists()


def test_code_of_another_user_is_not_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = entry_of("ggq_x")
    monkeypatch.setattr(os, "getuid", lambda: path.stat().st_uid + 1)
    assert kept.load("ggq_x") is None
    assert "not owned by you alone" in caplog.text


def test_kernels_work_where_nothing_can_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    monkeypatch.setenv("GGQ_CACHE_DIR", str(in_the_way / "kernels"))
    out = filled("i8", 1)
    Kernel("test.nowhere", twice, 2)(21, out.ctypes.data)
    assert out[0] == 42


def test_an_interrupted_write_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        kept.save("ggq_x", b"machine code")
    assert files(folder) == []


def test_processes_may_compile_the_same_kernel_at_once(tmp_path: Path) -> None:
    environment = os.environ | {"GGQ_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-P", "-c", DEQUANTIZE]
    running = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    results = {process.communicate()[0].split()[0] for process in running}
    assert [process.returncode for process in running] == [0, 0, 0]
    assert len(results) == 1
    assert [path.name for path in files(tmp_path)] == [f"ggq_dequantize_Q4_0.{cpu.form()}.o"]


@pytest.mark.parametrize(
    ("platform", "variables", "wanted"),
    [
        ("linux", {"XDG_CACHE_HOME": "/x"}, "/x/ggq"),
        ("linux", {}, "/home/me/.cache/ggq"),
        ("darwin", {}, "/home/me/Library/Caches/ggq"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/ggq"),
        ("win32", {}, "/home/me/AppData/Local/ggq"),
        ("linux", {"GGQ_CACHE_DIR": "/here", "XDG_CACHE_HOME": "/x"}, "/here"),
    ],
)
def test_code_is_kept_where_the_system_keeps_caches(
    platform: str, variables: dict[str, str], wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GGQ_CACHE_DIR", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(Path, "home", lambda: Path("/home/me"))
    assert kept.folder() == Path(wanted)


# -- old folders ----------------------------------------------------------------------------------


def old_folder(root: Path, number: int, days: float) -> Path:
    """A folder of other kernels, last used so many days ago."""
    path = root / f"{number:032x}"
    path.mkdir(mode=0o700, parents=True)
    (path / "ggq_old.o").write_bytes(b"old")
    last = time.time() - days * kept.DAY
    os.utime(path, (last, last))
    return path


def test_folders_nobody_used_for_long_are_removed(folder: Path) -> None:
    fresh, old = old_folder(folder, 1, 29), old_folder(folder, 2, 31)
    strange = folder / "notes"
    strange.mkdir()
    os.utime(strange, (0, 0))
    loose = old_folder(folder, 3, 31)
    loose.chmod(0o777)
    os.utime(loose, (0, 0))
    kept.save("x", b"code")
    kept.save("y", b"code")
    assert [path.exists() for path in (fresh, old, strange, loose)] == [True, False, True, True]
    assert kept.load("x") == b"code"


def test_the_folders_used_last_are_kept(folder: Path) -> None:
    paths = [old_folder(folder, number, number) for number in range(kept.KEPT_FOLDERS + 3)]
    kept.save("x", b"code")
    assert [path.exists() for path in paths] == [True] * kept.KEPT_FOLDERS + [False] * 3


def test_use_keeps_a_folder(folder: Path) -> None:
    kept.save("x", b"code")
    os.utime(kept._place(), (0, 0))
    kept._mark_used.cache_clear()
    assert kept.load("x") == b"code"
    assert time.time() - kept._place().stat().st_mtime < kept.DAY


def test_a_folder_removed_while_in_use_comes_back(folder: Path) -> None:
    kept.save("x", b"code")
    shutil.rmtree(kept._place())
    assert kept.load("x") is None
    kept.save("x", b"code")
    assert kept.load("x") == b"code"


def test_processes_may_clean_up_at_once(tmp_path: Path) -> None:
    for number in range(40):
        old_folder(tmp_path, number, 31 + number)
    code = """
import sys
from pathlib import Path
from ggq.jit.store import remove_unused
remove_unused(Path(sys.argv[1]))
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-P", "-c", code, str(tmp_path / "own")]
    running = [subprocess.Popen(command, env=environment) for _ in range(3)]
    assert [process.wait() for process in running] == [0, 0, 0]
    assert list(tmp_path.iterdir()) == []
