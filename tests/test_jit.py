"""The compiler policy: lazy, kept between runs, never code that cannot be trusted."""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import os
import shutil
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import pytest

from ggq.errors import GGQError
from ggq.jit import Kernel, cpu, prepare
from ggq.jit import store as kept
from ggq.jit.atomic import atomic_load
from ggq.jit.compile import compile_kernel
from ggq.jit.lang import Value, repeat_while, store
from tests.kernel_calls import filled
from tests.tree_copy import ROOT, copy_tree, run_in

DEQUANTIZE = """
import sys
import numpy as np
from ggq import blocks
rows = np.arange(18, dtype=np.uint8)[None]
print(blocks.by_name("Q4_0").dequantize(rows).tobytes().hex())
print("numba" in sys.modules)
"""
KEY = "from ggq.jit import cpu, store; print(store._key(cpu.form()))"


def twice(x: Value, out: Value) -> None:
    store(out, x + x)


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
    return [path for path in folder.rglob("*") if path.is_file()]


# -- lazy -----------------------------------------------------------------------------------------


def test_importing_everything_with_kernels_imports_no_compiler() -> None:
    code = """
import importlib, pkgutil, sys
import ggq.blocks, ggq.jit, ggq.runtime.kernels
for package in (ggq.blocks, ggq.jit, ggq.runtime.kernels):
    for entry in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{entry.name}")
ggq.blocks.all_types()
print(sorted({"numba", "llvmlite"} & set(sys.modules)))
"""
    assert run_in(ROOT, code) == "[]\n"


def test_a_warm_start_imports_no_compiler(tmp_path: Path) -> None:
    cold, cold_imports = run_in(ROOT, DEQUANTIZE, GGQ_CACHE_DIR=str(tmp_path)).split()
    warm, warm_imports = run_in(ROOT, DEQUANTIZE, GGQ_CACHE_DIR=str(tmp_path)).split()
    assert cold == warm
    assert (cold_imports, warm_imports) == ("True", "False")


# -- the private call -----------------------------------------------------------------------------


def test_numba_is_the_version_the_private_call_was_written_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (pin,) = [each for each in project["dependencies"] if each.startswith("numba")]
    major, minor, *_ = importlib.metadata.version("numba").split(".")
    assert pin == f"numba>={major}.{minor},<{major}.{int(minor) + 1}"


def test_numba_gives_machine_code_of_one_function() -> None:
    code = compile_kernel("ggq_test_twice", twice, 2)
    assert code[:4] in (b"\x7fELF", b"\xcf\xfa\xed\xfe") or code[:2] == b"\x64\x86"
    assert b"ggq_test_twice" in code
    assert b"numba" not in code.replace(b"numba_unpickle", b"")


def test_another_answer_from_numba_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from numba.core.codegen import CPUCodeLibrary

    monkeypatch.setattr(
        CPUCodeLibrary, "serialize_using_object_code", lambda self: ("", "bitcode", (b"",))
    )
    with pytest.raises(RuntimeError, match="returned 'bitcode' where machine code was expected"):
        compile_kernel("ggq_test_never", twice, 2)


# -- kept code ------------------------------------------------------------------------------------


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
        "ggq_test_kept.o",
        "ggq_test_kept_too.o",
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


def test_each_form_has_code_of_its_own() -> None:
    keys = [run_in(ROOT, KEY, GGQ_CPU=form) for form in cpu.forms()]
    assert len({*keys, run_in(ROOT, KEY, NUMBA_OPT="1")}) == len(keys) + 1
    assert run_in(ROOT, KEY, NUMBA_CPU_NAME="generic") == keys[0]


def entry_of(symbol: str) -> Path:
    kept.save(symbol, b"machine code")
    path = kept._entry(symbol)
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
    assert [path.name for path in files(tmp_path)] == ["ggq_dequantize_Q4_0.o"]


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


# -- forms ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", cpu.forms())
def test_a_form_can_be_forced(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GGQ_CPU", form)
    assert cpu.form() == form


def test_an_unknown_form_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GGQ_CPU", "sse9")
    with pytest.raises(GGQError, match="GGQ_CPU=sse9 is not known; use one of avx512, avxvnni"):
        cpu.form()


def test_a_form_the_processor_cannot_run_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    old = cpu.Machine("old", frozenset({"avx2", "f16c", "fma"}))
    monkeypatch.setattr(cpu, "host", lambda: old)
    assert cpu.forms() == ["avx2", "generic"]
    monkeypatch.setenv("GGQ_CPU", "avxvnni")
    with pytest.raises(GGQError, match="GGQ_CPU=avxvnni needs avxvnni, which this processor"):
        cpu.form()
    monkeypatch.delenv("GGQ_CPU")
    assert cpu.form() == "avx2"


@pytest.mark.parametrize(
    ("features", "form"),
    [
        ("", "generic"),
        ("crc lse", "generic"),
        ("neon", "neon"),
        ("neon i8mm", "neon"),
        ("neon dotprod", "dotprod"),
        ("neon dotprod i8mm sve", "i8mm"),
        ("avx2", "generic"),
        ("avx2 f16c fma", "avx2"),
        ("avx2 f16c fma avx512f avx512bw avx512vl avx512dq", "avx2"),
        ("avx2 f16c fma avxvnni", "avxvnni"),
        ("avx2 f16c fma avx512f avx512bw avx512vl avx512dq avx512vnni", "avx512"),
    ],
)
def test_each_processor_gets_the_best_form_it_can_run(
    features: str, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GGQ_CPU", raising=False)
    this = cpu.Machine("some", frozenset(features.split()))
    monkeypatch.setattr(cpu, "host", lambda: this)
    assert cpu.form() == form
    assert cpu.machine() == this
    for forced in cpu.forms()[1:]:
        monkeypatch.setenv("GGQ_CPU", forced)
        assert cpu.machine().features in cpu.FORMS[forced]


def test_a_processor_is_described_by_what_it_has_and_lacks() -> None:
    masked = cpu.Machine("neoverse-v1", frozenset({"neon", "dotprod"}), frozenset({"sve", "i8mm"}))
    assert masked.flags == "+dotprod,+neon,-i8mm,-sve"
    assert not cpu.host().features & cpu.host().lacks


# -- calls ----------------------------------------------------------------------------------------


def test_other_threads_run_while_a_kernel_does(folder: Path) -> None:
    def wait(flag: Value, seen: Value) -> None:
        for _ in repeat_while(lambda: atomic_load(flag).eq(0)):
            pass
        store(seen, atomic_load(flag))

    flag, seen = filled("i8", 1), filled("i8", 1)
    kernel = Kernel("test.wait", wait, 2)
    prepare([kernel])
    thread = threading.Thread(target=kernel, args=(flag.ctypes.data, seen.ctypes.data), daemon=True)
    thread.start()
    flag[0] = 7
    thread.join(60)
    assert seen[0] == 7
