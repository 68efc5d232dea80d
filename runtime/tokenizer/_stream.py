"""Text from tokens as they come: a character is given out when its last byte is there."""

from __future__ import annotations

import codecs
from collections.abc import Callable

_Utf8 = codecs.getincrementaldecoder("utf-8")


class TextStream:
    """Turns tokens into text one by one; the parts joined are what decoding all at once gives."""

    def __init__(self, token_bytes: Callable[[int], bytes], drop_space: bool = False) -> None:
        self._token_bytes = token_bytes
        self._drop_space = drop_space
        self._decoder = _Utf8("replace")

    def push(self, token: int) -> str:
        """Text that is certain now; up to three bytes of a character not yet complete wait."""
        return self._text(self._token_bytes(token))

    def finish(self) -> str:
        """What is left at the end: U+FFFD if a character stayed incomplete, else nothing."""
        return self._text(b"", final=True)

    def _text(self, raw: bytes, final: bool = False) -> str:
        if self._drop_space and raw:
            raw = raw.removeprefix(b" ")
            self._drop_space = False
        return self._decoder.decode(raw, final)
