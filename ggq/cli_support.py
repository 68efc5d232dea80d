"""What every command line tool does alike: the error line, exit codes, Ctrl-C, closed pipes."""

from __future__ import annotations

import _thread
import argparse
import atexit
import contextlib
import gc
import math
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from itertools import takewhile
from types import FrameType
from typing import Any, NoReturn

from ggq.errors import DISK_FULL_ERRNOS, GGQError

_PATIENCE = 0.5  # seconds
_MOMENT = 0.005
# What these call may not raise: callbacks, of which Python prints it and goes on, and imports, of
# which compiled modules make an ImportError.
_NOT_TO_INTERRUPT = {
    "_frozen_importlib", "_frozen_importlib_external", "importlib", "weakref", "_weakrefset",
}  # fmt: skip
_heeded = -math.inf  # when Ctrl-C was


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors and the flags every tool has: --version, --debug."""

    def __init__(self, prog: str, description: str, **options: Any) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False, **options)
        self.add_argument("--version", action=_PrintVersion, help="print the version and exit")
        self.add_argument(
            "--debug", "--verbose", action="store_true", help="show the traceback of an error"
        )

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with 2."""
        self.exit(2, f"{self.prog}: error: {printable(message)} (see {self.prog} --help)\n")


class _PrintVersion(argparse.Action):
    def __init__(self, option_strings: list[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from ggq import __version__

        print(f"{parser.prog} {__version__}")
        parser.exit()


def printable(text: str) -> str:
    r"""`text` on one line: control characters, escapes and broken UTF-8 written as \xNN."""
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def exit_code(error: BaseException) -> int:
    """Exit code of a tool that ends with `error`."""
    if isinstance(error, GGQError):
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return 130
    if isinstance(error, MemoryError):
        return 5
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return 4
    if isinstance(error, OSError) and error.errno in DISK_FULL_ERRNOS:
        return 6
    return 1


def run(body: Callable[[], int | None], prog: str) -> int:
    """Run a tool's body and give its exit code; errors become one line on stderr.

    A closed stdout ends the tool quietly. `--debug` on the command line shows the traceback.
    """
    atexit.register(gc.freeze)  # Python's end is quicker if it need not look for garbage
    try:
        with _patient_interrupts():
            return _run(body, prog)
    except KeyboardInterrupt:  # behind the last line of the body, or while the first was dealt with
        return 130


def _run(body: Callable[[], int | None], prog: str) -> int:
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy starts more, which nobody here uses
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    try:
        code = body() or 0
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # Python flushes stdout again at exit; that must not fail a second time.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (Exception, KeyboardInterrupt) as error:
        if {"--debug", "--verbose"} & set(sys.argv[1:]):
            traceback.print_exc()
        elif not isinstance(error, KeyboardInterrupt):
            print(f"{prog}: error: {printable(_line(error))}", file=sys.stderr)
        return exit_code(error)


@contextlib.contextmanager
def _patient_interrupts() -> Iterator[None]:
    """Take Ctrl-C pressed again soon for the first one, which gets time to tidy up.

    Python's own end, which comes next, is not disturbed by it.
    """
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield
        return
    heed_interrupts_again()
    signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    finally:
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
        if _heeded < 0:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def heed_interrupts_again() -> None:
    """Ctrl-C was dealt with and the program goes on: the next one is another."""
    global _heeded
    _heeded = -math.inf


def _interrupt(_: int, frame: FrameType | None) -> None:
    global _heeded
    now = time.monotonic()
    if now - _heeded < _PATIENCE:
        return
    if frame is not None and _not_now(frame):
        _thread.start_new_thread(_interrupt_later, ())
        return
    _heeded = now
    raise KeyboardInterrupt


def _not_now(frame: FrameType) -> bool:
    """Whether an exception would be lost, or a thread that is being started would."""
    since_run = takewhile(lambda each: each.f_code is not run.__code__, _outwards(frame))
    return any(
        each.f_globals.get("__name__", "").partition(".")[0] in _NOT_TO_INTERRUPT
        or each.f_code.co_name == "__del__"
        or each.f_code is threading.Thread.start.__code__
        for each in since_run
    )


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    while frame:
        yield frame
        frame = frame.f_back


def _interrupt_later() -> None:
    time.sleep(_MOMENT)
    if sys.platform == "win32":
        _thread.interrupt_main()
    else:  # this also wakes it from waiting
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def _line(error: BaseException) -> str:
    if isinstance(error, GGQError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        return f"{where}{error.strerror}"
    if isinstance(error, MemoryError):
        return "not enough memory"
    return f"internal error, {type(error).__name__}: {error} (--debug shows where)"
