"""Convert a model as on another system: ... darwin|win32|linux MODEL_DIR OUT.gguf TYPE

What Python offers on Linux only is taken away first, and on win32 the system refuses what Windows
does: to open folders, and to rename or remove files that are open or mapped. The libraries ggq uses
are loaded before, for those of Linux cannot be loaded as another system's. Prints how many modules
were imported.
"""

from __future__ import annotations

import builtins
import importlib
import io
import mmap
import os
import pkgutil
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LIBRARIES = (
    "concurrent.futures", "huggingface_hub", "jinja2", "llvmlite.binding", "minijinja",
    "multiprocessing", "numba", "numpy", "sentencepiece", "subprocess", "tempfile", "tokenizers",
    "tqdm",
)  # fmt: skip
# https://docs.python.org/3/library/os.html and .../time.html: "Availability" of each.
ONLY_LINUX = {
    os: ["O_DIRECT", "copy_file_range", "memfd_create", "posix_fadvise", "posix_fallocate",
         "sched_getaffinity", "sched_setaffinity", "sendfile", "splice"],
    time: ["pthread_getcpuclockid"],
    mmap: ["MADV_DONTFORK", "MADV_HUGEPAGE", "MADV_POPULATE_READ", "MADV_REMOVE", "MAP_NORESERVE",
           "MAP_POPULATE"],
}  # fmt: skip
ONLY_POSIX = {
    os: ["O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "O_SYNC", "chown", "fchmod", "fchown",
         "fdatasync", "fork", "forkpty", "getloadavg", "getpgid", "geteuid", "getuid", "killpg",
         "lchown", "mkfifo", "nice", "posix_spawn", "pread", "preadv", "pwrite", "pwritev",
         "register_at_fork", "sched_yield", "setsid", "sync", "sysconf", "uname"],
    mmap: [name for name in dir(mmap) if name.startswith(("MADV_", "MAP_", "PROT_"))],
}  # fmt: skip
POSIX_MODULES = ("fcntl", "grp", "pwd", "pty", "resource", "termios", "tty")


def become(system: str) -> None:
    """Take away what there is on Linux and not on `system`."""
    for library in LIBRARIES:
        importlib.import_module(library)
    platform.machine()  # kept from now on
    missing = [ONLY_LINUX, ONLY_POSIX] if system == "win32" else [ONLY_LINUX]
    for module, names in (each for table in missing for each in table.items()):
        for name in names:
            if hasattr(module, name):
                delattr(module, name)
    _hide_proc()
    if system == "win32":
        _refuse_what_windows_refuses()
    sys.platform = system


def _hide_proc() -> None:
    opened = io.open

    def without_proc(file: Any, *args: Any, **options: Any) -> Any:
        if str(file).startswith(("/proc/", "/sys/")):
            raise FileNotFoundError(2, "there is no such folder here", str(file))
        return opened(file, *args, **options)

    builtins.open = io.open = without_proc


def _refuse_what_windows_refuses() -> None:
    for name in POSIX_MODULES:
        sys.modules[name] = None  # type: ignore[assignment]
    listing, link, maps = os.listdir, os.readlink, io.FileIO("/proc/self/maps")

    def is_open(path: Path) -> bool:
        maps.seek(0)
        files = []
        for number in listing("/proc/self/fd"):
            try:
                files.append(link(f"/proc/self/fd/{number}"))
            except OSError:
                continue
        return str(path) in files or f" {path}\n".encode() in maps.readall()

    def refusing(call: Callable[..., Any], is_wrong: Callable[[Path], bool]) -> Callable[..., Any]:
        def checked(*args: Any, **options: Any) -> Any:
            for each in args:
                if isinstance(each, str | Path) and is_wrong(Path(each).absolute()):
                    raise PermissionError(13, "the system says no", str(each))
            return call(*args, **options)

        return checked

    os.open = refusing(os.open, Path.is_dir)
    for name in ("rename", "replace", "remove", "unlink"):
        setattr(os, name, refusing(getattr(os, name), is_open))

    class Map(mmap.mmap):
        @property
        def madvise(self) -> Any:  # type: ignore[override]
            raise AttributeError("madvise")

    mmap.mmap = Map  # type: ignore[misc]


def import_everything() -> list[str]:
    """Names of all modules of ggq."""
    import ggq

    found = [module.name for module in pkgutil.walk_packages(ggq.__path__, "ggq.")]
    for name in found:
        importlib.import_module(name)
    return found


def main(system: str, source: str, target: str, type_name: str) -> None:
    """Import all there is, convert, and convert again over what is there."""
    if system != "linux":
        become(system)
    print(len(import_everything()))
    from ggq.convert.cli import main as convert

    for _ in range(2):
        options = ["--type", type_name, "--compat", "llama", "--quiet", "--debug"]
        sys.argv = ["ggq-convert", source, target, *options]
        if convert():
            sys.exit("the conversion failed")


if __name__ == "__main__":
    main(*sys.argv[1:])
