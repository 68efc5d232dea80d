"""--tensor-type REGEX=TYPE: the user's own rules for tensor types.

Facts: llama.cpp tools/quantize/quantize.cpp `parse_tensor_type`; the pattern is C++ std::regex in
its default (ECMAScript) grammar, searched in the name, after being lower-cased.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ggq.blocks import BlockType
from ggq.convert.mixtures.presets import target_type
from ggq.errors import UsageError

_CLASSES = {
    b"alnum": b"0-9A-Za-z",
    b"alpha": b"A-Za-z",
    b"blank": rb" \t",
    b"cntrl": rb"\x00-\x1f\x7f",
    b"digit": b"0-9",
    b"d": b"0-9",
    b"graph": b"!-~",
    b"lower": b"a-z",
    b"print": b" -~",
    b"punct": rb"!-/:-@\[-`{-~",
    b"s": rb"\s",
    b"space": rb"\s",
    b"upper": b"A-Z",
    b"w": rb"\w",
    b"xdigit": b"0-9A-Fa-f",
}
# Python reads these; ECMAScript does not. Escapes, and the bracket they may hide in, come first.
_TOKENS = re.compile(
    rb"(?P<skip>\\.)|(?P<named>\[:(?P<name>[a-z]+):\])"
    rb"|(?P<foreign>\(\?(?![:=!])|[*+?}]\+|\\[az]|\\g)",
    re.DOTALL,
)


@dataclass(frozen=True)
class Override:
    """One rule: tensors whose name holds a match of `pattern` get `type`. `text` is as given."""

    text: str
    pattern: re.Pattern[bytes]
    type: BlockType

    def matches(self, tensor: str) -> bool:
        """Whether the rule is for this tensor."""
        return self.pattern.search(tensor.encode("utf-8", "surrogateescape")) is not None


def parse_override(text: str) -> Override:
    """Rule of one "REGEX=TYPE"; the first "=" ends the pattern. Raises UsageError."""
    pattern, equals, type_name = text.partition("=")
    if not (pattern and equals and type_name):
        raise UsageError(f"--tensor-type {text!r} is not REGEX=TYPE, as in 'attn_v=q8_0'")
    return Override(text, _compiled(pattern), target_type(type_name))


def _compiled(pattern: str) -> re.Pattern[bytes]:
    try:
        # bytes.lower leaves all but A-Z alone, as C's tolower does; it turns \D into \d too.
        lowered = pattern.encode("utf-8", "surrogateescape").lower()
        return re.compile(_TOKENS.sub(_translated, lowered))
    except re.error as error:
        raise UsageError(f"--tensor-type: {pattern!r} is not a regular expression: {error}") from (
            None
        )


def _translated(token: re.Match[bytes]) -> bytes:
    if token["skip"] and token["skip"] not in (rb"\a", rb"\z"):
        return token["skip"]
    if token["named"] and token["name"] in _CLASSES:
        return _CLASSES[token["name"]]
    raise re.error(f"{token[0].decode(errors='replace')!r} is no part of an ECMAScript pattern")
