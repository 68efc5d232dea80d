"""The assembly of every form, for processors with its features and no others, here or not."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cross_compile import SHORT, TRIPLES

ROOT = Path(__file__).parents[1]
ARM_FORMS = ("neon", "dotprod", "i8mm")
OUTER = {"syscall"}  # what kernels may call by name: to sleep at a barrier
_SSE3 = (
    "pshufb|palignr|ph(add|sub)|pmaddubsw|pmulhrsw|psign|pabs|mov[sd]?[lhd]dup|h(add|sub)p|lddqu|"
    "pmull?d[q]?\\b|p(min|max)(sb|uw|sd|ud)|pmov[sz]x|blendv?p|pblend|round[ps]|insertps|"
    "extractps|pinsr[bdq]|pextr[bdq]|dpp|packusdw|ptest|pcmp(eq|gt)q|crc32|popcnt|lzcnt|andn[lq]|"
    "bextr|bls|sh[lrx]*x[lq]|sarx|rorx|mulx|pdep|pext[lq]|movbe"
)
_EVEX = "%zmm|%k[0-7]|%[xy]mm(1[6-9]|2[0-9]|3[01])|\\{1to"
_LATER_ARM = (
    "(cas|swp|ld(add|clr|set|eor)|ldapr)[a-z]*\\t|[zp][0-9]+\\.[bhsd]|f[a-z]+\\tv[0-9]+\\.8h"
)
# What the processors of a form need not have.
LACKS = {
    "generic": f"%ymm|%zmm|%k[0-7]|\\tv[a-z]|\\t({_SSE3})",
    "avx2": f"{_EVEX}|\\tvpdp|\\t(andn|bextr|bls|shlx|shrx|sarx|rorx|mulx)",
    "avxvnni": f"{_EVEX}|^\\tvpdp",  # encoded as AVX-VNNI only with {{vex}} before it
    "avx512": "vperm[it]?2?b\\b|vcvtne|vdpbf16|vpopcnt|vgf2p8|vpmultishift",
    "neon": f"dot\\t|mmla\\t|{_LATER_ARM}",
    "dotprod": f"mmla\\t|usdot|{_LATER_ARM}",
    "i8mm": _LATER_ARM,
}
# What multiplies bytes in decoding, and in prefill.
DOTS = {
    "generic": ("pmaddwd", "pmaddwd"),
    "avx2": ("vpmaddubsw", "vpmaddubsw"),
    "avxvnni": ("{vex}\tvpdpbusd", "{vex}\tvpdpbusd"),
    "avx512": ("vpdpbusd.*%zmm", "vpdpbusd.*1to16.*%zmm"),
    "neon": ("smull", "smull"),
    "dotprod": ("sdot", "sdot.*4b\\[[0-3]\\]"),
    "i8mm": ("sdot", "smmla"),
}
# What multiplies floats of 16 bits in prefill.
SHORTS = {
    "generic": "mulps",
    "avx2": "vfmadd.*%ymm",
    "avxvnni": "{vex}\tvpdpwssd.*%ymm",
    "avx512": "vpdpwssd.*1to16.*%zmm",
    "neon": "fmla",
    "dotprod": "fmla",
    "i8mm": "fmla",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FORM/KERNEL.s."""
    out = tmp_path_factory.mktemp("assembly")
    command = [sys.executable, "-m", "tests.cross_compile", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    last = (done.stdout.splitlines() or ["start"])[-1]
    assert done.returncode == 0, f"exit code {done.returncode} at {last}\n{done.stderr[-3000:]}"
    return out


def instructions(path: Path) -> list[str]:
    """Labels, and the instructions with a tab before them."""
    lines = path.read_text().splitlines()
    return [line for line in lines if re.match(r"\t[a-z{]|[.\w]+:", line)]


def loops(path: Path) -> list[list[str]]:
    """The bodies of loops: instructions from a label to a jump back to it."""
    found: list[list[str]] = []
    starts: dict[str, int] = {}
    body: list[str] = []
    for line in instructions(path):
        if line[0] != "\t":
            starts[line.split(":")[0]] = len(body)
            continue
        body.append(line)
        start = starts.get(line.split()[-1])
        if start is not None:
            found.append(body[start:])
    return found


@pytest.mark.parametrize("form", TRIPLES)
def test_no_form_has_what_its_processors_may_lack(form: str, folder: Path) -> None:
    wrong = re.compile(LACKS[form])
    found = [
        f"{path.stem}: {line}"
        for path in sorted((folder / form).iterdir())
        for line in instructions(path)
        if wrong.search(line)
    ]
    assert not found


@pytest.mark.parametrize("form", TRIPLES)
def test_kernels_call_nothing_but_the_scheduler(form: str, folder: Path) -> None:
    call = re.compile(r"\t(?:callq?|jmpq?|bl?)\t([A-Za-z_]\w*)")
    paths = sorted((folder / form).iterdir())
    called = {name for path in paths for name in call.findall(path.read_text())}
    assert called == OUTER


@pytest.mark.parametrize("form", TRIPLES)
@pytest.mark.parametrize("family", ["Q4_K", "Q8_0"])
def test_bytes_are_multiplied_by_the_instruction_of_the_form(
    form: str, family: str, folder: Path
) -> None:
    for kernel, dot in zip(("matvec", "matmat"), DOTS[form], strict=True):
        bodies = loops(folder / form / f"{kernel}.{family}.s")
        assert any(re.search(dot, "\n".join(body)) for body in bodies), kernel


@pytest.mark.parametrize("form", TRIPLES)
def test_short_floats_meet_tiles_in_the_instruction_of_the_form(form: str, folder: Path) -> None:
    bodies = loops(folder / form / f"matmat.{SHORT}.s")
    assert any(re.search(SHORTS[form], "\n".join(body)) for body in bodies)
    assert not re.search("vpdpwssd", (folder / form / f"matvec.{SHORT}.s").read_text())


@pytest.mark.parametrize("form", TRIPLES)
def test_quantizers_round_every_product(form: str, folder: Path) -> None:
    fused = re.compile(r"\t(vfn?m(add|sub)|fn?ml[as]|fn?m(add|sub))")
    for path in (folder / form).glob("quantize.*"):
        assert not fused.search(path.read_text()), path.stem


@pytest.mark.parametrize("form", ARM_FORMS)
def test_threads_of_arm_wait_for_each_other_in_order(form: str, folder: Path) -> None:
    text = (folder / form / "execute.work.s").read_text()
    for each in ("ldar", "stlr", "ldaxr", "stlxr", "yield"):
        assert re.search(rf"\t{each}\b", text), each


@pytest.mark.parametrize("form", ARM_FORMS)
def test_arm_converts_halves_by_instruction(form: str, folder: Path) -> None:
    assert "fcvt" in (folder / form / "matvec.Q8_0.s").read_text()
    assert "fcvtn" in (folder / form / "heads.neox.f16.f16.s").read_text()
