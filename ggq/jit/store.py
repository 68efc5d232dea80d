"""Where machine code is kept between runs, so that a warm start needs no compiler and no numba.

One file per kernel in a folder whose name is a hash of everything the code depends on: all kernel
sources, the numba and llvmlite versions, the processor and its features. A damaged, foreign or
world-writable entry is never loaded: machine code from a stranger is arbitrary code.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import logging
import os
import sys
import tempfile
from functools import cache
from pathlib import Path

from ggq.jit import cpu

log = logging.getLogger("ggq")
_DIGEST = 32


def folder() -> Path:
    """Folder of all kept code: `GGQ_CACHE_DIR`, or `ggq` in the user's cache folder."""
    given = os.environ.get("GGQ_CACHE_DIR")
    if given:
        return Path(given)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = str(Path.home() / "Library" / "Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "ggq"


def _kernel_sources() -> list[Path]:
    package = Path(__file__).resolve().parent.parent
    runtime = importlib.util.find_spec("ggq.runtime.kernels")
    folders = [package / "jit", package / "blocks"]
    if runtime and runtime.submodule_search_locations:
        folders += [Path(p) for p in runtime.submodule_search_locations]
    return sorted(path for each in folders for path in each.glob("*.py"))


def _version_stamp(package: str) -> bytes:
    """Content of the package's version file, read without importing the package."""
    spec = importlib.util.find_spec(package)
    origin = spec.origin if spec else None
    return Path(origin).with_name("_version.py").read_bytes() if origin else b""


@cache
def _key(form: str) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for path in _kernel_sources():
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    machine = cpu.machine()
    optimization = os.environ.get("NUMBA_OPT", "")
    for part in (form, machine.name, machine.flags, sys.platform, optimization):
        digest.update(part.encode() + b"\0")
    digest.update(_version_stamp("numba") + _version_stamp("llvmlite"))
    return digest.hexdigest()


def _is_private(path: Path) -> bool:
    """Owned by this user and writable by nobody else."""
    if not hasattr(os, "getuid"):
        return True  # Windows: the profile folder's access list already says so
    status = path.lstat()
    return status.st_uid == os.getuid() and not status.st_mode & 0o022


def _entry(symbol: str) -> Path:
    return folder() / _key(cpu.form()) / f"{symbol}.o"


def load(symbol: str) -> bytes | None:
    """Kept machine code of a kernel, or None where there is none that can be trusted."""
    path = _entry(symbol)
    try:
        if not (_is_private(path.parent) and _is_private(path)):
            log.warning("ignoring %s: not owned by you alone", path)
            return None
        data = path.read_bytes()
    except OSError:
        return None
    code = data[_DIGEST:]
    if hashlib.blake2b(code, digest_size=_DIGEST).digest() != data[:_DIGEST]:
        log.warning("ignoring %s: damaged", path)
        return None
    return code


def save(symbol: str, code: bytes) -> None:
    """Keep machine code for the next run; a folder that cannot be written is no error."""
    path = _entry(symbol)
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_private(path.parent):
            return
        handle, temporary = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as out:
                out.write(hashlib.blake2b(code, digest_size=_DIGEST).digest() + code)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
