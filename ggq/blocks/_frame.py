"""How a weight matrix in blocks meets activations: the loops all families share.

A `Frame` knows one family's arithmetic in three shapes, each written once for all families:

* a row times one vector or a few (`dot_row`): decoding, one sequential stream from the memory map;
* a panel of rows times a tile of tokens (`multiply`): prefill, the panel unpacked once
  (`pack_panel`) into [k][row] order and used for every tile;
* the activations themselves, laid out as the two above read them (`write_image`, `write_tile`).

The methods are traced: arguments named as addresses are kernel values, and so are results.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

from ggq.jit.isa import target
from ggq.jit.lang import (
    Type,
    Value,
    const,
    i64,
    load,
    loop,
    minimum,
    prefetch,
    scratch,
    shuffle,
    store,
    var,
)


def tile_tokens() -> int:
    """Tokens of one tile."""
    return target().tile_tokens


def panel_rows() -> int:
    """Rows of one panel."""
    return target().panel_rows


def padded(nbytes: int) -> int:
    """Next multiple of 64 bytes, a cache line."""
    return -(-nbytes // 64) * 64


class Frame(ABC):
    """The three shapes for one family. Frames of equal `key` lay activations out alike.

    `activation_block` activations share a scale as signed bytes; 0 where `dot_row` takes singles.
    `tile_number` is the size in bytes of the numbers that `multiply` multiplies. With more columns
    than `columns_at_once` a panel is better multiplied in parts, so that caches hold it; 0: never.
    """

    key: str
    activation_block: ClassVar[int] = 0
    tile_number: ClassVar[int] = 1
    columns_at_once: ClassVar[int] = 0

    @abstractmethod
    def image_bytes(self, cols: int) -> int:
        """Bytes of one activation vector of `cols` as `dot_row` reads it."""

    @abstractmethod
    def write_image(self, x: Value, cols: Value, image: Value) -> None:
        """Lay out x f32[cols] for `dot_row`."""

    @abstractmethod
    def dot_row(self, row: Value, cols: Value, images: Sequence[Value]) -> list[Value]:
        """f32 scalars: the row's blocks, unpacked once, times each vector.

        A vector's result does not depend on how many others there are.
        """

    @abstractmethod
    def panel_bytes(self, cols: int) -> int:
        """Bytes of one unpacked panel."""

    @abstractmethod
    def pack_panel(self, row: Callable[[int], Value], cols: Value, panel: Value) -> None:
        """Unpack `panel_rows()` rows; `row(r)` is the address of row r."""

    @abstractmethod
    def tile_bytes(self, cols: int) -> int:
        """Bytes of one tile of activations."""

    @abstractmethod
    def write_tile(self, x: Value, cols: Value, tile: Value, token: Value) -> None:
        """Lay out x f32[cols] as one token of a tile; x = 0 (address) clears the token."""

    @abstractmethod
    def multiply(
        self, panel: Value, tile: Value, cols: Value, ahead: Ahead | None = None
    ) -> list[Value]:
        """One f32[panel_rows()] per token of the tile; `ahead` takes a step in every step of it."""

    def before(self, col: Value) -> tuple[Value, Value]:
        """Bytes of a panel, and of a tile, before a column that is a part's first."""
        return const(i64, 0), const(i64, 0)

    @abstractmethod
    def steps(self, cols: Value) -> Value:
        """Steps of `multiply`."""


class Ahead:
    """Asks for `nbytes` from an address on that are read later, a part in each of `steps` steps.

    A panel is unpacked from many rows at once, which no processor foresees. Asked for all together
    its lines would wait for each other, and arithmetic for them.
    """

    def __init__(self, address: Value, nbytes: Value, steps: Value) -> None:
        lines = (nbytes + 63) // 64
        self._next, self._end = var(address), address + nbytes
        self._stride = (lines + (steps - 1)) // steps * 64

    def step(self) -> None:
        """Ask for the next part."""
        start = self._next.value
        stop = minimum(start + self._stride, self._end)
        for line in loop(start, stop, 64):
            prefetch(line)
        self._next.set(stop)


AHEAD = 8192  # bytes between what is read and what is asked for


def stream(address: Value, nbytes: int) -> None:
    """Before `nbytes` of weights are read: ask for those two pages on.

    Processors foresee a stream only to the end of its page of 4 KB; this carries it across. Every
    line must be asked for, if twice: a stream with holes is slower than one not asked for at all.
    """
    for line in range(0, nbytes, 64):
        prefetch(address + (AHEAD + line))


def row_addresses(row: Callable[[int], Value]) -> Value:
    """Address of an array with the addresses of a panel's rows, for loops over them."""
    addresses = scratch(8 * panel_rows())
    for r in range(panel_rows()):
        store(addresses + 8 * r, row(r), 8)
    return addresses


def lines(type: Type, address: Value, stride: int) -> list[Value]:
    """The vectors that lie `stride` bytes apart, one for each row of a panel."""
    return [load(type, address + r * stride, 4) for r in range(panel_rows())]


def store_words(panel: Value, columns: dict[int, Value]) -> None:
    """Write words of four codes, word -> u32[panel_rows()], into a panel [word][row].

    Where the target takes eight codes at once the panel is [word / 2][row][2].
    """
    rows = panel_rows()
    mixed = [lane for r in range(rows) for lane in (r, rows + r)]
    for word, column in columns.items():
        at = panel + word * (4 * rows)
        if not target().words_in_pairs:
            store(at, column, 4)
        elif word % 2 == 0:
            store(at, shuffle(column, mixed, columns[word + 1]), 4)


def token_values(type: Type, tile: Value, index: int | Value) -> list[Value]:
    """Entry [index] of a tile's array of four-byte values: each token's in a vector for a panel."""
    at = tile + index * (4 * tile_tokens())
    return list(target().broadcasts(type, at, tile_tokens(), panel_rows()))
