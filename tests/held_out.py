"""The texts held out for measuring, and the search for passages two texts share."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

FOLDER = Path(__file__).parent / "data" / "eval"
PASSAGE = 50
BLOCK = PASSAGE // 2


def index() -> list[Mapping[str, str]]:
    """File, domain, title, author, origin, licence and sha256 of each text."""
    entries: list[Mapping[str, str]] = json.loads((FOLDER / "index.json").read_text("utf-8"))
    return entries


def texts() -> dict[str, str]:
    """File name -> text."""
    return {one["file"]: (FOLDER / one["file"]).read_text("utf-8") for one in index()}


def flat(text: str) -> str:
    """The text in lower case with every run of white space as one space."""
    return " ".join(text.lower().split())


class Passages:
    """Finds passages of PASSAGE characters or more that a text shares with some others."""

    def __init__(self, others: Iterable[str]) -> None:
        self._others = [flat(one) for one in others]
        # Every passage of 2 BLOCK - 1 characters or more holds a whole aligned block.
        self._blocks = {
            one[at : at + BLOCK]: (which, at)
            for which, one in reversed(list(enumerate(self._others)))
            for at in range(len(one) - len(one) % BLOCK - BLOCK, -1, -BLOCK)
        }

    def shared(self, text: str) -> set[str]:
        """What `text` shares with the others."""
        text = flat(text)
        found = set()
        for at in range(len(text) - BLOCK + 1):
            block = text[at : at + BLOCK]
            if block in self._blocks:
                found |= self._around(text, at, block)
        return found

    def _around(self, text: str, at: int, block: str) -> set[str]:
        """The passages with `block` at `at`, if one of its PASSAGE characters is in the others."""
        windows = (
            text[begin : begin + PASSAGE] for begin in range(max(0, at + BLOCK - PASSAGE), at + 1)
        )
        return {
            window
            for window in windows
            if len(window) == PASSAGE and any(window in other for other in self._others)
        }
