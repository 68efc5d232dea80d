"""Special tokens in a text: where they stand, longest first, before anything else is tokenized.

Facts: llama.cpp src/llama-vocab.cpp `tokenizer_st_partition`; where two special tokens overlap the
leftmost wins, as in the tokenizers library.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Set

SPACES = " \t\n\v\f\r"
_SPACES = re.compile(f"[{SPACES}]*")


class SpecialTokens:
    """Cuts a text at special tokens.

    `ids`: text -> token. Spaces left of a token in `strip_left`, and right of one in
    `strip_right`, belong to the token and vanish.
    """

    def __init__(
        self,
        ids: Mapping[str, int],
        strip_left: Set[int] = frozenset(),
        strip_right: Set[int] = frozenset(),
    ) -> None:
        self._ids = ids
        self._strip_left = strip_left
        self._strip_right = strip_right
        lengths: defaultdict[str, set[int]] = defaultdict(set)
        for text in ids:
            lengths[text[:2]].add(len(text))
        for start in lengths:
            if start[0] in ids:
                lengths[start].add(1)
        self._lengths = {start: sorted(found, reverse=True) for start, found in lengths.items()}
        self._start = re.compile(_any_of(self._lengths)) if lengths else None

    def split(self, text: str) -> Iterator[str | int]:
        """Parts of `text` in order: non-empty plain texts and special tokens."""
        done = 0
        for start, end, token in self._matches(text):
            plain = text[done:start]
            if token in self._strip_left:
                plain = plain.rstrip(SPACES)
            if plain:
                yield plain
            yield token
            done = end
            if token in self._strip_right:
                done = _SPACES.match(text, end).end()  # type: ignore[union-attr]
        if done < len(text):
            yield text[done:]

    def _matches(self, text: str) -> Iterator[tuple[int, int, int]]:
        at = 0
        while self._start is not None and (found := self._start.search(text, at)):
            start = found.start()
            at = start + 1
            for length in self._lengths[found[0]]:
                token = self._ids.get(text[start : start + length])
                if token is not None:
                    at = start + length
                    yield start, at, token
                    break


def _any_of(starts: Mapping[str, object]) -> str:
    """Pattern for any of the one- or two-character texts, the longer where both fit."""
    seconds: defaultdict[str, str] = defaultdict(str)
    for start in starts:
        seconds[start[0]] += start[1:]
    pairs = [f"{re.escape(c)}[{re.escape(more)}]" for c, more in seconds.items() if more]
    singles = [re.escape(start) for start in starts if len(start) == 1]
    return "|".join(pairs + singles)
