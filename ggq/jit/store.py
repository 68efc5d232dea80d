"""Where machine code is kept between runs, so that a warm start needs no compiler and no numba.

One file per kernel in a folder whose name is a hash of everything the code depends on: all kernel
sources, the numba and llvmlite versions, the processor and its features. A damaged, foreign or
world-writable entry is never loaded: machine code from a stranger is arbitrary code. Folders of
other sources, versions or processors are removed when they have not been used for long.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import logging
import os
import re
import sys
import time
from functools import cache
from pathlib import Path

KERNEL_PACKAGES = (
    "ggq.jit", "ggq.blocks", "ggq.runtime.kernels", "ggq.convert.grids", "ggq.convert.methods",
    "ggq.convert.eval",
)  # fmt: skip

log = logging.getLogger("ggq")
_DIGEST = 32
_FOLDER_NAME = re.compile("[0-9a-f]{32}")
DAY = 86400  # seconds
KEPT_DAYS = 30
KEPT_FOLDERS = 8  # besides the one in use
# What decides which instructions there are, by the names Linux gives it on x86 and on ARM.
_CPUINFO_CHARACTERS = 1 << 14
_CPUINFO = {
    "vendor_id", "cpu family", "model", "model name", "stepping", "flags",
    "CPU implementer", "CPU architecture", "CPU variant", "CPU part", "Features",
}  # fmt: skip


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
    specs = [importlib.util.find_spec(package) for package in KERNEL_PACKAGES]
    places = [spec.submodule_search_locations or () for spec in specs if spec]
    folders = [Path(place) for found in places for place in found]
    return sorted(path for each in folders for path in each.glob("*.py"))


def _version_stamp(package: str) -> bytes:
    """Content of the package's version file, read without importing the package."""
    spec = importlib.util.find_spec(package)
    origin = spec.origin if spec else None
    return Path(origin).with_name("_version.py").read_bytes() if origin else b""


def _processor() -> str:
    """What the system says of the processor and its features, without the compiler's help."""
    try:
        with open("/proc/cpuinfo") as file:
            first, _, _ = file.read(_CPUINFO_CHARACTERS).partition("\n\n")
    except OSError:
        import llvmlite.binding as llvm

        return f"{llvm.get_host_cpu_name()} {llvm.get_host_cpu_features().flatten()}"
    lines = (line.partition(":") for line in first.splitlines())
    return "\n".join(value for name, _, value in lines if name.strip() in _CPUINFO)


@cache
def _key() -> str:
    digest = hashlib.blake2b(digest_size=16)
    for path in _kernel_sources():
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    for part in (_processor(), sys.platform, os.environ.get("NUMBA_OPT", "")):
        digest.update(part.encode() + b"\0")
    digest.update(_version_stamp("numba") + _version_stamp("llvmlite"))
    return digest.hexdigest()


def _is_private(path: Path) -> bool:
    """Owned by this user and writable by nobody else."""
    if not hasattr(os, "getuid"):
        return True  # Windows: the profile folder's access list already says so
    status = path.lstat()
    return status.st_uid == os.getuid() and not status.st_mode & 0o022


def _place() -> Path:
    """The folder of what this process may use."""
    return folder() / _key()


def has(name: str) -> bool:
    """Whether something was kept under a name, good or not."""
    return (_place() / name).exists()


def load(name: str) -> bytes | None:
    """What was kept under a name, or None where there is nothing that can be trusted."""
    path = _place() / name
    try:
        if not (_is_private(path.parent) and _is_private(path)):
            log.warning("ignoring %s: not owned by you alone", path)
            return None
        data = path.read_bytes()
        _mark_used(path.parent)
    except OSError:
        return None
    content = data[_DIGEST:]
    if hashlib.blake2b(content, digest_size=_DIGEST).digest() != data[:_DIGEST]:
        log.warning("ignoring %s: damaged", path)
        return None
    return content


def save(name: str, content: bytes) -> None:
    """Keep `content` for the next run; a folder that cannot be written is no error."""
    import tempfile

    path = _place() / name
    with contextlib.suppress(OSError):
        is_new = not path.parent.exists()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_private(path.parent):
            return
        handle, temporary = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as out:
                out.write(hashlib.blake2b(content, digest_size=_DIGEST).digest() + content)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
        if is_new:
            remove_unused(path.parent)


@cache
def _mark_used(place: Path) -> None:
    """Note the day, for `remove_unused` of other processes."""
    if time.time() - place.stat().st_mtime > DAY:
        os.utime(place)


def remove_unused(place: Path) -> None:
    """Remove the folders beside `place` that nobody used for long, or that are too many.

    Others may do the same at once, and may still use what is removed: they compile it again.
    """
    used: dict[Path, float] = {}
    for other in place.parent.iterdir():
        with contextlib.suppress(OSError):  # another process may have removed it
            if other != place and _FOLDER_NAME.fullmatch(other.name) and _is_private(other):
                used[other] = other.stat().st_mtime
    for rank, other in enumerate(sorted(used, key=used.__getitem__, reverse=True), 1):
        if rank > KEPT_FOLDERS or time.time() - used[other] > KEPT_DAYS * DAY:
            import shutil

            shutil.rmtree(other, ignore_errors=True)
