"""Where the prompt of ggq-run comes from: the command line, a file, or a pipe."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from ggq.errors import UsageError

_ESCAPE = re.compile(r"""\\(?:([nrt'"\\])|x([0-9A-Fa-f]{2}))""")
_PLAIN = {"n": "\n", "r": "\r", "t": "\t"}


def read_prompt(text: str | None, file: str | None, *, escapes: bool) -> str | None:
    r"""The prompt of -p and -f, or of a piped stdin; None when there is none.

    `escapes` turns \n, \r, \t, \', \", \\ and \xNN of -p into what they stand for. One newline at
    the end of a file or pipe is not part of the prompt. Raises UsageError on text that is not
    UTF-8, OSError.
    """
    if file is not None:
        return _text(Path(file).read_bytes(), file)
    if text == "-" or (text is None and not sys.stdin.isatty()):
        return _text(sys.stdin.buffer.read(), "stdin")
    if text is None:
        return None
    # the bytes of an argument, which Python decoded with the locale's encoding
    text = _utf8(text.encode("utf-8", "surrogateescape"), "-p")
    return unescape(text) if escapes else text


def unescape(text: str) -> str:
    r"""Text with \n, \r, \t, \', \", \\ and \xNN replaced; \xNN are bytes of UTF-8."""

    def plain(match: re.Match[str]) -> bytes:
        letter, code = match.groups()
        return bytes([int(code, 16)]) if code else _PLAIN.get(letter, letter).encode()

    parts: list[bytes] = []
    end = 0
    for match in _ESCAPE.finditer(text):
        parts += [text[end : match.start()].encode(), plain(match)]
        end = match.end()
    return _utf8(b"".join([*parts, text[end:].encode()]), r"-p (after \xNN)")


def _text(raw: bytes, where: str) -> str:
    return _utf8(raw.removesuffix(b"\n"), where)


def _utf8(raw: bytes, where: str) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise UsageError(
            f"the prompt ({where}) is not UTF-8: byte {raw[error.start]:#04x} at {error.start}"
        ) from None
