r"""Byte-level BPE in plain Python: for a short text it is done before the library is set up.

Regexes are rewritten for Python's `re`, which has no `\p{...}`: as the characters of a class below
U+0590, in which no class has changed for years. Texts with other characters go to the library.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import groupby, pairwise

from ggq.runtime.tokenizer._byte_level import LETTERS
from ggq.strings import StringArray

MOST_CHARACTERS = 4000  # of a text
_MOST_LETTERS = 200  # of a word, as the time for one grows with its square
_LIMIT = "\u0590"
_SPACES = r"\t-\r\x20\x85\xa0"  # what \s is to the library
_NO_MERGE = 1 << 62
_ATOM = re.compile(r"\\p\{\w+\}|\\.|&&|.", re.DOTALL)


class ShortTexts:
    """`merges`: the best first. `in_bytes`: the tokens of what should be a token but is not."""

    def __init__(
        self,
        merges: StringArray,
        ids: Mapping[str, int],
        splits: tuple[str, ...],
        ignore_merges: bool,
        in_bytes: Callable[[str], list[int]],
    ) -> None:
        self._ids = ids
        self._patterns = patterns(splits)
        self._ignore_merges = ignore_merges
        self._in_bytes = in_bytes
        raw = merges.raw_list()
        raw.reverse()  # of equal merges the first counts
        self._ranks = dict(zip(raw, range(len(raw) - 1, -1, -1), strict=True))
        self._words: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int] | None:
        """Tokens of `text`, or None if that takes the library."""
        if self._patterns is None or len(text) > MOST_CHARACTERS or max(text, default="") >= _LIMIT:
            return None
        words = [text]
        for pattern in self._patterns:
            words = [part for word in words for part in _parts(pattern, word)]
        if any(len(word) > _MOST_LETTERS for word in words):
            return None
        return [token for word in words for token in self._word(word)]

    def _word(self, word: str) -> list[int]:
        if word not in self._words:
            letters = "".join([LETTERS[byte] for byte in word.encode()])
            whole = self._ids.get(letters) if self._ignore_merges else None
            self._words[word] = self._merged(letters) if whole is None else [whole]
        return self._words[word]

    def _merged(self, letters: str) -> list[int]:
        pieces = [letter.encode() for letter in letters]
        ranks = [self._rank(*pair) for pair in pairwise(pieces)]
        while ranks and (best := min(ranks)) < _NO_MERGE:
            at = ranks.index(best)
            pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
            del ranks[at]
            if at:
                ranks[at - 1] = self._rank(pieces[at - 1], pieces[at])
            if at < len(ranks):
                ranks[at] = self._rank(pieces[at], pieces[at + 1])
        tokens: list[int] = []
        for piece in pieces:
            text = piece.decode()
            tokens += [self._ids[text]] if text in self._ids else self._in_bytes(text)
        return tokens

    def _rank(self, left: bytes, right: bytes) -> int:
        return self._ranks.get(left + b" " + right, _NO_MERGE)


@cache
def patterns(splits: tuple[str, ...]) -> list[re.Pattern[str]] | None:
    """The regexes for characters below U+0590, or None if one is beyond `re`."""
    rewritten = [_rewritten(split) for split in splits]
    return None if None in rewritten else [re.compile(each) for each in rewritten if each]


def _rewritten(regex: str) -> str | None:
    """`regex` with classes as sets of characters; None if it has what means something else here."""
    parts: list[str] = []
    in_set = False
    for atom in _ATOM.findall(regex):
        if atom in "[]":
            in_set = atom == "["
        elif atom == r"\s":
            atom = _SPACES if in_set else f"[{_SPACES}]"
        elif atom == r"\S" and not in_set:
            atom = f"[^{_SPACES}]"
        elif atom.startswith(r"\p"):
            members = _members(atom[3:-1])
            if not members:
                return None
            atom = members if in_set else f"[{members}]"
        elif atom == "&&" or (atom == "$" and not in_set) or re.fullmatch(r"\\[^\Wrnt]", atom):
            return None
        parts.append(atom)
    return "".join(parts)


@cache
def _members(category: str) -> str:
    """Ranges of the characters of a general category, as they stand in a set."""
    codes = range(ord(_LIMIT))
    inside = [code for code in codes if unicodedata.category(chr(code)).startswith(category)]
    runs = [list(run) for _, run in groupby(enumerate(inside), lambda item: item[1] - item[0])]
    return "".join(f"\\u{run[0][1]:04x}-\\u{run[-1][1]:04x}" for run in runs)


def _parts(pattern: re.Pattern[str], word: str) -> Sequence[str]:
    """The matches in `word` and what is between them."""
    parts: list[str] = []
    end = 0
    for match in pattern.finditer(word):
        parts += [word[end : match.start()], match[0]]
        end = match.end()
    return [part for part in (*parts, word[end:]) if part]
