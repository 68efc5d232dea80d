"""The name of a pre-tokenizer, found from what tokenizer.json says it does.

tokenizer.json describes steps; they are brought into the form of the table the runtime uses, and
the name of the row that does the same is the one for `tokenizer.ggml.pre`.
"""

from __future__ import annotations

import json
from typing import Any

from ggq.errors import TokenizerError
from ggq.runtime.tokenizer._pretokenizers import (
    BLOOM,
    DIGIT,
    GPT2,
    PRETOKENIZERS,
    RIGHT_TRIPLES,
    TRAILING_SPACE,
    PreTokenizer,
)

Json = dict[str, Any]

# Published forms of regexes that the table has in another form.
SAME_REGEX = {
    r"\d{1,3}(?=(?:\d{3})*\b)": RIGHT_TRIPLES,
    r"(?=(\d{3})+(?!\d))": RIGHT_TRIPLES,
    r" ?[^(\s|[.,!?…。，、।۔،])]+": BLOOM,
    r"\p{N}{1}": DIGIT,
    r"\s+$": TRAILING_SPACE,
}
SPACE_TO_MARK = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
CUT_BEHIND_SPACES = {
    "type": "Split",
    "pattern": {"String": " "},
    "behavior": "MergedWithPrevious",
    "invert": False,
}


class _UnknownStepError(Exception):
    """A step the table has no form for."""


def pre_name(tokenizer: Json, has_bos: bool) -> str:
    """Value of `tokenizer.ggml.pre` for the content of a tokenizer.json of type BPE.

    `has_bos`: whether there is a BOS token, without which no name fits that adds one.
    Raises TokenizerError with the structure if no known pre-tokenizer does the same.
    """
    normalizer, steps = tokenizer.get("normalizer"), tokenizer.get("pre_tokenizer")
    model = tokenizer.get("model", {})
    if normalizer == SPACE_TO_MARK and steps in (None, CUT_BEHIND_SPACES):
        if model.get("byte_fallback"):
            return "gemma4"
    elif _keeps_text(normalizer):
        ignore_merges = bool(model.get("ignore_merges", False))
        for name in _names(steps):
            pre = PRETOKENIZERS[name]
            if pre.ignore_merges == ignore_merges and (has_bos or not pre.add_bos):
                return name
    structure = {
        "normalizer": normalizer,
        "pre_tokenizer": steps,
        "ignore_merges": model.get("ignore_merges"),
        "byte_fallback": model.get("byte_fallback"),
    }
    raise TokenizerError(
        "tokenizer.json: no known pre-tokenizer has this structure: "
        + json.dumps(structure, ensure_ascii=False)
    )


def published_steps(pre: PreTokenizer) -> Json:
    """The pre-tokenizer of a tokenizer.json that does what `pre` does; the inverse of pre_name."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    steps: list[Json] = []
    for regex in pre.splits:
        if regex == DIGIT:
            steps.append({"type": "Digits", "individual_digits": True})
        else:
            pattern = {"Regex": regex}
            steps.append(
                {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
            )
    if pre.splits[-1] == GPT2:
        steps[-1] = {**byte_level, "use_regex": True}
    else:
        steps.append({**byte_level, "use_regex": False})
    return steps[0] if len(steps) == 1 else {"type": "Sequence", "pretokenizers": steps}


def _keeps_text(normalizer: Json | None) -> bool:
    """True for a normalizer that does nothing, or composes characters, which GGUF does not tell."""
    if normalizer is None or normalizer.get("type") == "NFC":
        return True
    return normalizer.get("type") == "Sequence" and all(
        map(_keeps_text, normalizer.get("normalizers", []))
    )


def _names(steps: Json | None) -> list[str]:
    """Names with these splits in the order of the table."""
    try:
        splits = tuple(_splits(steps))
    except _UnknownStepError:
        return []
    if splits[-1:] != ("",):
        return []
    return [
        name
        for name, pre in PRETOKENIZERS.items()
        if pre.byte_level and tuple(map(_canonical, pre.splits)) == splits[:-1]
    ]


def _splits(step: Json | None) -> list[str]:
    """Regexes of a pre-tokenizer step; an empty one stands for writing bytes as letters."""
    match step:
        case {"type": "Sequence", "pretokenizers": [*parts]}:
            return [regex for part in parts for regex in _splits(part)]
        case {"type": "ByteLevel", "add_prefix_space": False, **options}:
            return [_canonical(GPT2), ""] if options.get("use_regex", True) else [""]
        case {"type": "Digits", **options}:
            return [DIGIT if options.get("individual_digits") else r"\p{N}+"]
        case {"type": "Split", "pattern": {"Regex": str(regex)}, **options}:
            how = (options.get("behavior"), bool(options.get("invert")))
            if how in (("Isolated", False), ("Removed", True)):
                return [_canonical(regex)]
    raise _UnknownStepError


def _canonical(regex: str) -> str:
    for character, escape in (("\n", r"\n"), ("\r", r"\r"), ("\t", r"\t")):
        regex = regex.replace(character, escape)
    return SAME_REGEX.get(regex, regex)
