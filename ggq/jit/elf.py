"""Machine code of an object file into executable memory, without loading LLVM for it.

What numba writes on x86-64 Linux refers to its own constants and to libc by whole addresses and by
nothing else, so a few words are all there is to fill in. Other object files are left to LLVM.
Facts: System V ABI, chapter 4 (object files); its AMD64 supplement (relocations).
"""

from __future__ import annotations

import ctypes
import mmap
import struct
import sys
from functools import cache
from typing import NamedTuple

_START = b"\x7fELF\x02\x01\x01"  # 64 bits, little-endian, version 1
_RELOCATABLE, _X86_64 = 1, 62
_SYMBOLS, _RELOCATIONS, _NO_BYTES = 2, 4, 8  # types of sections
_LOADED = 2  # flag of sections
_ABSOLUTE, _RELATIVE = 1, 24  # R_X86_64_64: S + A, R_X86_64_PC64: S + A - P
_READ_EXECUTE = 1 | 4  # PROT_READ | PROT_EXEC

_kept: list[mmap.mmap] = []  # code stays where it is until the process ends


class UnfitError(Exception):
    """The object file needs more than this module does."""


class _Section(NamedTuple):
    name: int
    type: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    alignment: int
    entry_size: int


class _Object:
    """An object file, and where in the memory for it each section comes to lie."""

    def __init__(self, code: bytes) -> None:
        if code[:7] != _START or struct.unpack_from("<HH", code, 16) != (_RELOCATABLE, _X86_64):
            raise UnfitError
        (table,) = struct.unpack_from("<Q", code, 40)
        (count,) = struct.unpack_from("<H", code, 60)
        raw = code[table : table + count * 64]
        self.code = code
        self.sections = [_Section(*each) for each in struct.iter_unpack("<IIQQQQIIQQ", raw)]
        self.places: dict[int, int] = {}
        self.nbytes = 0
        for number, section in enumerate(self.sections):
            if section.flags & _LOADED and section.size:
                place = -(-self.nbytes // section.alignment) * section.alignment
                self.places[number] = place
                self.nbytes = place + section.size

    def content(self, section: _Section) -> bytes:
        if section.type == _NO_BYTES:
            return bytes(section.size)
        return self.code[section.offset : section.offset + section.size]

    def addresses(self, base: int) -> list[tuple[str, int | None]]:
        """Name and address of every symbol; None for one that is nowhere."""
        (table,) = (s for s in self.sections if s.type == _SYMBOLS)
        names = self.content(self.sections[table.link])
        found: list[tuple[str, int | None]] = []
        for name, _, _, section, value, _ in struct.iter_unpack("<IBBHQQ", self.content(table)):
            text = names[name : names.index(0, name)].decode()
            if section in self.places:
                found.append((text, base + self.places[section] + value))
            else:
                found.append((text, None if section or not text else _imported(text)))
        return found


def load(symbol: str, code: bytes) -> int:
    """Address of the function `symbol`, ready to be called. Raises UnfitError."""
    if not sys.platform.startswith("linux"):
        raise UnfitError
    file = _Object(code)
    memory = mmap.mmap(-1, file.nbytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for number, place in file.places.items():
        content = file.content(file.sections[number])
        memory[place : place + len(content)] = content
    symbols = file.addresses(base)
    for section in file.sections:
        if section.type != _RELOCATIONS:
            continue
        for offset, info, addend in struct.iter_unpack("<QQq", file.content(section)):
            at = file.places[section.info] + offset
            target, kind = symbols[info >> 32][1], info & 0xFFFFFFFF
            if target is None or kind not in (_ABSOLUTE, _RELATIVE):
                raise UnfitError
            value = target + addend - (base + at if kind == _RELATIVE else 0)
            struct.pack_into("<q", memory, at, value)
    if _libc().mprotect(ctypes.c_void_p(base), ctypes.c_size_t(file.nbytes), _READ_EXECUTE):
        raise UnfitError
    _kept.append(memory)
    found = dict(symbols).get(symbol)
    if not found:
        raise RuntimeError(f"no function {symbol} in the kept machine code")
    return found


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


def _imported(name: str) -> int | None:
    """Address of a function of libc."""
    try:
        return ctypes.cast(getattr(_libc(), name), ctypes.c_void_p).value
    except AttributeError:
        return None
