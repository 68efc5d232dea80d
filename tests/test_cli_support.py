"""Error lines, exit codes, Ctrl-C and closed pipes: the same for every tool."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from textwrap import indent

import pytest

from ggq import __version__, errors
from ggq.cli import main
from ggq.cli_support import Parser, exit_code, printable, run

ROOT = Path(__file__).parents[1]


def all_errors(base: type[errors.GGQError]) -> list[type[errors.GGQError]]:
    return [base, *(error for child in base.__subclasses__() for error in all_errors(child))]


@pytest.mark.parametrize(
    "error, code",
    [
        (errors.GGQError("x"), 1),
        (errors.WriteError("x"), 1),
        (errors.UsageError("x"), 2),
        (errors.MagicError("x"), 3),
        (errors.UnsupportedModelError("x"), 3),
        (errors.MissingShardError("x"), 4),
        (errors.NotFoundError("x"), 4),
        (FileNotFoundError(errno.ENOENT, "No such file", "m.gguf"), 4),
        (errors.OutOfMemoryError("x"), 5),
        (MemoryError(), 5),
        (errors.DiskFullError("x"), 6),
        (OSError(errno.ENOSPC, "No space left on device"), 6),
        (PermissionError(errno.EACCES, "Permission denied"), 1),
        (KeyboardInterrupt(), 130),
        (ZeroDivisionError("x"), 1),
    ],
)
def test_exit_codes(error: BaseException, code: int) -> None:
    assert exit_code(error) == code


def test_every_error_class_has_an_exit_code() -> None:
    assert {error.exit_code for error in all_errors(errors.GGQError)} == {1, 2, 3, 4, 5, 6}


@pytest.mark.parametrize(
    "error, line",
    [
        (errors.FormatError("it ends", path="m", offset_bytes=7), "m: it ends (at byte 7)"),
        (errors.DiskFullError("full"), "full"),
        (FileNotFoundError(errno.ENOENT, "No such file", "m.gguf"), "m.gguf: No such file"),
        (PermissionError(errno.EACCES, "Permission denied"), "Permission denied"),
        (MemoryError(), "not enough memory"),
        (errors.ConvertError("two\nlines \x1b[1m"), "two\\nlines \\x1b[1m"),
        (RuntimeError("odd"), "internal error, RuntimeError: odd (--debug shows where)"),
    ],
)  # fmt: skip
def test_an_error_is_one_line(
    error: Exception, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def body() -> None:
        raise error

    run(body, "ggq-tool")
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"ggq-tool: error: {line}\n")


def test_debug_shows_the_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def body() -> None:
        raise errors.FormatError("it ends")

    monkeypatch.setattr(sys, "argv", ["tool", "--debug"])
    assert run(body, "tool") == 3
    assert "Traceback" in capsys.readouterr().err


def test_the_result_of_the_body_is_the_exit_code() -> None:
    assert run(lambda: None, "tool") == 0
    assert run(lambda: 7, "tool") == 7


def test_usage_errors_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["info"], ["information"], ["info", "--no-such-flag", "f"], []):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
        err = capsys.readouterr().err
        assert err.startswith("ggq")
        assert ": error: " in err
        assert len(err.splitlines()) == 1


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        Parser("ggq-tool", "A tool.").parse_args(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"ggq-tool {__version__}\n"


def test_printable() -> None:
    assert printable("größe 漢字 😀") == "größe 漢字 😀"
    assert printable("a\nb\x1b\x9b\u202e") == "a\\nb\\x1b\\x9b\\u202e"
    assert printable(b"\xff\x00".decode("utf-8", "surrogateescape")) == "\\xff\\x00"


def tool(body: str) -> subprocess.Popen[str]:
    script = f"import sys, time\nfrom ggq.cli_support import run\ndef body():\n{body}\n"
    script += "sys.exit(run(body, 'tool'))"
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", script], stdout=pipe, stderr=pipe, text=True, cwd=ROOT
    )


def test_ctrl_c_ends_with_130_and_says_nothing() -> None:
    with tool("    print('ready', flush=True)\n    time.sleep(60)") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "", "")


UNDISTURBED = """print('ready', flush=True)
for _ in range(500):
    time.sleep(1e-3)
print('whole', flush=True)
"""
DELETION = f"""
    class Tidy:
        def __del__(self):
{indent(UNDISTURBED, " " * 12)}
    Tidy()
"""
IMPORT = f"""
    import pathlib
    pathlib.Path({{folder!r}}, 'slow.py').write_text({"import time" + chr(10) + UNDISTURBED!r})
    sys.path.insert(0, {{folder!r}})
    import slow
"""


@pytest.mark.parametrize("body", [DELETION, IMPORT], ids=["deletion", "import"])
def test_ctrl_c_waits_for_what_it_would_be_lost_in(body: str, tmp_path: Path) -> None:
    with tool(body.replace("{folder!r}", repr(str(tmp_path))) + "    time.sleep(60)") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for _ in range(3):
            process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "whole\n", "")


@pytest.mark.parametrize("body", ["    while True: print('x' * 9999)", "    print('x')"])
def test_a_closed_pipe_ends_quietly(body: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    script = f"import sys\nfrom ggq.cli_support import run\ndef body():\n{body}\n"
    script += "sys.exit(run(body, 'tool'))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        timeout=60,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")
