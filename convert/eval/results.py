"""What of a run is known already, chunk by chunk, so that one that was broken off can go on."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np

from ggq import __version__
from ggq.atomic import write_whole
from ggq.convert.eval.chunks import Chunks
from ggq.convert.eval.compare import Compared
from ggq.errors import FormatError

_FIELDS = [field.name for field in fields(Compared)]


class Results:
    """Chunks of one text that are measured. With `folder` they are kept there, a file for each.

    `identities` name what is measured, the reference first. A folder holds any number of runs:
    what another version, other files, another text or another mode found is not taken for this one.
    """

    def __init__(
        self, folder: Path | None, identities: Sequence[str], chunks: Chunks, exact: bool
    ) -> None:
        self._count = len(identities) - 1
        self._chunks = chunks
        self._found: dict[int, list[Compared]] = {}
        self._folder = folder and folder / _key(identities, chunks, exact)
        if self._folder:
            self._folder.mkdir(parents=True, exist_ok=True)
            for number in range(len(chunks)):
                if (path := self._path(number)).exists():
                    self._found[number] = self._read(path)

    @property
    def missing(self) -> list[int]:
        """Numbers of the chunks still to be measured."""
        return [n for n in range(len(self._chunks)) if n not in self._found]

    def add(self, number: int, found: list[Compared]) -> None:
        """Keep what was found of a chunk, one Compared per file."""
        self._found[number] = found
        if self._folder:
            memory = io.BytesIO()
            values = [[getattr(each, name) for name in _FIELDS] for each in found]
            np.save(memory, np.array(values, "<f8"))
            write_whole(self._path(number), memory.getbuffer())

    def parts(self, candidate: int) -> list[Compared]:
        """What is known of a file, in the order of the chunks."""
        return [self._found[n][candidate] for n in sorted(self._found)]

    def _path(self, number: int) -> Path:
        assert self._folder
        return self._folder / f"chunk-{number:06d}.npy"

    def _read(self, path: Path) -> list[Compared]:
        try:
            values = np.load(path)
        except (ValueError, EOFError) as error:
            raise FormatError(f"no results of a chunk: {error}; remove it", path=path) from None
        if values.shape != (self._count, len(_FIELDS), self._chunks.scored):
            raise FormatError(
                f"results of shape {values.shape}, wanted those of {self._count} "
                f"files and {self._chunks.scored} tokens; remove it",
                path=path,
            )
        named = [dict(zip(_FIELDS, each, strict=True)) for each in values]
        return [Compared(**(each | {"same_top": each["same_top"] != 0})) for each in named]


def _key(identities: Sequence[str], chunks: Chunks, exact: bool) -> str:
    digest = hashlib.sha256(np.ascontiguousarray(chunks.tokens, "<i4").tobytes())
    said = [__version__, *identities, str(chunks.n_ctx), str(chunks.bos), str(exact)]
    digest.update("\n".join(said).encode())
    return digest.hexdigest()[:20]
