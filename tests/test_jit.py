"""The compiler policy: lazy, kept between runs, never code that cannot be trusted."""

from __future__ import annotations

import ctypes
import importlib.metadata
import platform
import struct
import sys
import threading
import tomllib
from pathlib import Path

import pytest

from ggq.errors import GGQError
from ggq.jit import Kernel, cpu, elf, prepare
from ggq.jit.atomic import atomic_load
from ggq.jit.compile import compile_kernel
from ggq.jit.lang import Value, call, const, f32, i32, repeat_while, shuffle, splat, store
from tests.kernel_calls import filled
from tests.tree_copy import ROOT, run_in

DEQUANTIZE = """
import sys
import numpy as np
from ggq import blocks
rows = np.arange(18, dtype=np.uint8)[None]
print(blocks.by_name("Q4_0").dequantize(rows).tobytes().hex())
print(sorted({"numba", "llvmlite"} & set(sys.modules)))
"""

# Where machine code comes into memory without LLVM.
IS_DIRECT = sys.platform == "linux" and platform.machine() == "x86_64"


def twice(x: Value, out: Value) -> None:
    store(out, x + x)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for machine code."""
    monkeypatch.setenv("GGQ_CACHE_DIR", str(tmp_path / "kernels"))
    return tmp_path / "kernels"


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
    cold, cold_imports = run_in(ROOT, DEQUANTIZE, GGQ_CACHE_DIR=str(tmp_path)).splitlines()
    warm, warm_imports = run_in(ROOT, DEQUANTIZE, GGQ_CACHE_DIR=str(tmp_path)).splitlines()
    assert cold == warm
    assert cold_imports == "['llvmlite', 'numba']"
    assert warm_imports == ("[]" if IS_DIRECT else "['llvmlite']")


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
    assert cpu.Machine.of(masked.name, masked.flags) == masked
    assert not cpu.host().features & cpu.host().lacks


# -- into memory ----------------------------------------------------------------------------------


def test_llvm_loads_what_is_left_to_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(symbol: str, code: bytes) -> int:
        raise elf.UnfitError

    monkeypatch.setattr(elf, "load", refuse)
    out = filled("i8", 1)
    for kernel in (Kernel("test.by_llvm", twice, 2), Kernel("test.by_llvm", twice, 2)):
        kernel(21, out.ctypes.data)
        assert out[0] == 42


def constants_and_libc(x: Value, out: Value) -> None:
    call("sched_yield", i32)
    table = const(f32 * 4, 1.5) * splat(x.to(f32), 4)
    store(out, shuffle(table, (3, 2, 1, 0)) + 0.25)


@pytest.mark.skipif(not IS_DIRECT, reason="LLVM loads everything here")
def test_code_is_complete_and_cannot_be_overwritten() -> None:
    address = elf.load("ggq_test_unit", compile_kernel("ggq_test_unit", constants_and_libc, 2))
    out = filled("f4", 4)
    ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64)(address)(3, out.ctypes.data)
    assert out.tolist() == [4.75] * 4
    spans = (line.split()[:2] for line in Path("/proc/self/maps").read_text().splitlines())
    (rights,) = (
        rights
        for span, rights in spans
        if int(span.split("-")[0], 16) <= address < int(span.split("-")[1], 16)
    )
    assert rights == "r-xp"


@pytest.mark.skipif(not IS_DIRECT, reason="LLVM loads everything here")
def test_object_files_of_other_kinds_are_left_to_llvm() -> None:
    code = compile_kernel("ggq_test_unit", constants_and_libc, 2)
    for other in (
        b"\xcf\xfa\xed\xfe" + code[4:],
        code[:18] + struct.pack("<H", 183) + code[20:],
        code.replace(b"sched_yield", b"sched_yeild"),
    ):
        with pytest.raises(elf.UnfitError):
            elf.load("ggq_test_unit", other)


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
