"""A file that gets its name only when it is complete.

The bytes go to .NAME.ggq-part beside the target, locked for as long as the writer lives. A part
without a lock is what a killed process left behind; the next writer in the folder removes it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ggq.clock import Clock
from ggq.errors import (
    DISK_FULL_ERRNOS,
    DiskFullError,
    NotFoundError,
    OutputBusyError,
    UsageError,
)

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

_SUFFIX = ".ggq-part"
_NO_LOCKS_ERRNOS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
# Never through a link; on Windows, bytes as they are.
_FLAGS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
_MAX_WRITE_BYTES = 1 << 30
_SYNC_BYTES = 1 << 26  # written before they are sent to the disk behind the writer
_LOCK_ATTEMPTS = 50
_LOCK_PAUSE_SECONDS = 0.01


def check_target(path: Path) -> None:
    """Check that a file can be made at `path`. Raises NotFoundError, UsageError."""
    if not path.parent.is_dir():
        raise NotFoundError(
            f"{path}: the folder {str(path.parent)!r} does not exist; make it first"
        )
    if path.exists() and not path.is_file():
        raise UsageError(f"{path}: this exists and is not a regular file; name another output")


def check_space(folder: Path, nbytes: int) -> None:
    """Check that `nbytes` fit into `folder`. Raises DiskFullError."""
    usage = shutil.disk_usage(folder)
    # Some network and virtual file systems report a size of 0: nothing is known then.
    if usage.total and nbytes > usage.free:
        raise DiskFullError(
            f"{folder}: {nbytes:,} bytes are needed, but only {usage.free:,} are free;"
            " free some space or write elsewhere"
        )


def remove_stale_parts(folder: Path) -> None:
    """Remove the parts in `folder` whose writers are dead."""
    with os.scandir(folder) as entries:
        parts = [e.path for e in entries if e.name.startswith(".") and e.name.endswith(_SUFFIX)]
    for part in parts:
        # Another process may be doing the same, or the part may be someone else's.
        with contextlib.suppress(OSError):
            descriptor = os.open(part, os.O_RDWR | _FLAGS)
            try:
                if _lock(descriptor) and _is_at(descriptor, part):
                    os.unlink(part)
            finally:
                os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` survive a power failure, where the system allows it."""
    if sys.platform != "win32":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Write a small file at once. Raises what PendingFile raises."""
    pending = PendingFile(path)
    try:
        pending.write(memoryview(content))
        pending.publish()
    finally:
        pending.discard()


class PendingFile:
    """The bytes of `path` before it has its name. Ends with `publish` or `discard`.

    What is written goes to the disk while more is being made: a thread syncs behind the writer.
    `clock` runs in the meantime. Raises OutputBusyError if another process is writing the target.
    """

    def __init__(self, path: Path, clock: Clock | None = None) -> None:
        self.path = path
        self._clock = clock or Clock()
        self._unsynced_bytes = 0
        self._syncer: ThreadPoolExecutor | None = None
        self._syncing: Future[None] | None = None
        self.part = path.with_name(f".{path.name}{_SUFFIX}")
        self._published = False
        self._descriptor = _claim(self.part, path)

    def write(self, chunk: memoryview) -> None:
        """Append the bytes of `chunk`. Raises DiskFullError."""
        with _disk_full_named(self.path), self._clock:
            while chunk:
                written = os.write(self._descriptor, chunk[:_MAX_WRITE_BYTES])
                chunk = chunk[written:]
                self._unsynced_bytes += written
            if self._unsynced_bytes >= _SYNC_BYTES:
                self._sync_behind()

    def sync(self) -> None:
        """Wait until the bytes are on the disk. Raises DiskFullError."""
        with _disk_full_named(self.path), self._clock:
            if self._syncing is not None:
                self._syncing.result()
            os.fsync(self._descriptor)

    def _sync_behind(self) -> None:
        if self._syncing is not None:
            if not self._syncing.done():
                return
            self._syncing.result()
        if self._syncer is None:
            from concurrent.futures import ThreadPoolExecutor

            self._syncer = ThreadPoolExecutor(1)
        self._unsynced_bytes = 0
        self._syncing = self._syncer.submit(self._sync_data)

    def _sync_data(self) -> None:
        with self._clock:
            getattr(os, "fdatasync", os.fsync)(self._descriptor)

    def publish(self) -> None:
        """Give the file its name, replacing what had it."""
        if sys.platform == "win32":  # an open file cannot be renamed there
            self._close()
        os.replace(self.part, self.path)
        self._published = True
        self._close()

    def withdraw(self) -> None:
        """Remove the file again if `publish` gave it its name."""
        if self._published:
            self.path.unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove the bytes. Does nothing after `publish`."""
        if self._descriptor >= 0:
            if sys.platform == "win32":
                self._close()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.part)
            self._close()

    def _close(self) -> None:
        if self._syncer is not None:
            self._syncer.shutdown(cancel_futures=True)
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


@contextlib.contextmanager
def _disk_full_named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL_ERRNOS:
            raise DiskFullError(f"{path}: no space left while writing: {error.strerror}") from None
        raise


def _claim(part: Path, target: Path) -> int:
    """Descriptor of an empty, locked file at `part`."""
    for _ in range(_LOCK_ATTEMPTS):
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | _FLAGS, 0o666)
        try:
            # Between open and lock another process may have removed or renamed it.
            if _lock_if_possible(descriptor) and _is_at(descriptor, part):
                _empty(descriptor, part)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        time.sleep(_LOCK_PAUSE_SECONDS)
    raise OutputBusyError(f"{target}: another process is writing this file; wait for it to end")


def _empty(descriptor: int, part: Path) -> None:
    try:
        os.ftruncate(descriptor, 0)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _lock(descriptor: int) -> bool:
    """Lock the file for the life of the descriptor; False if another process holds it."""
    if sys.platform != "win32":  # an open file cannot be removed there
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _lock_if_possible(descriptor: int) -> bool:
    """`_lock`, but True on a file system without locks; nothing removes parts there."""
    try:
        return _lock(descriptor)
    except OSError as error:
        if error.errno in _NO_LOCKS_ERRNOS:
            return True
        raise


def _is_at(descriptor: int, path: str | Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
