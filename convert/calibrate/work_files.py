"""Files of a calibration folder: statistics that appear whole, and activations on their way."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]


class replacing:  # noqa: N801
    """A file to write that takes its name, on the disk, when the block ends without an error."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._part = path.with_name(f".{path.name}.part")
        self._file = self._part.open("wb")

    def __enter__(self) -> BinaryIO:
        return self._file

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        if kind is None:
            os.replace(self._part, self._path)
        else:
            self._part.unlink()


class Carried:
    """f32 [tokens, columns] on the disk: what goes from one section to the next.

    Only the part that is read or written is mapped.
    """

    def __init__(self, path: Path, tokens: int, columns: int) -> None:
        self._path, self._shape = path, (tokens, columns)

    def create(self) -> None:
        """Make room."""
        with self._path.open("wb") as file:
            file.truncate(4 * self._shape[0] * self._shape[1])

    def read(self, tokens: slice) -> F32:
        """f32 [n, columns]: a copy."""
        return np.array(self._map("r", tokens))

    def write(self, tokens: slice, x: F32) -> None:
        """Keep x f32 [n, columns]."""
        self._map("r+", tokens)[:] = x

    def sync(self) -> None:
        """Wait until it is on the disk."""
        with self._path.open("rb+") as file:
            os.fsync(file.fileno())

    def remove(self) -> None:
        """Give the room back."""
        self._path.unlink(missing_ok=True)

    def _map(self, mode: str, tokens: slice) -> np.memmap[tuple[int, int], np.dtype[np.float32]]:
        columns = self._shape[1]
        shape = (tokens.stop - tokens.start, columns)
        offset = 4 * tokens.start * columns
        return np.memmap(self._path, np.float32, mode, offset, shape)  # type: ignore[call-overload, no-any-return]
