"""The 256 letters byte-level BPE writes bytes with: printable Latin-1 as it is, the rest shifted.

Source: GPT-2, encoder.py `bytes_to_unicode`.
"""

from __future__ import annotations

_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_SHIFTED = [byte for byte in range(256) if byte not in _PRINTABLE]

BYTE_OF_LETTER = {chr(byte): byte for byte in _PRINTABLE} | {
    chr(256 + place): byte for place, byte in enumerate(_SHIFTED)
}
LETTERS = "".join(letter for letter, _ in sorted(BYTE_OF_LETTER.items(), key=lambda i: i[1]))
