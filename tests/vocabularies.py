"""Small vocabularies, written as the metadata of a GGUF file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ggq.metadata import Metadata
from ggq.spec import ValueType

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def metadata_of(values: Mapping[str, Any]) -> Metadata:
    """tokenizer.ggml.* keys: lists of texts, ints or floats become arrays."""
    metadata = Metadata("test vocabulary")
    for key, value in values.items():
        if isinstance(value, list):
            first = value[0] if value else ""
            kinds = {float: ValueType.F32, int: ValueType.I32}
            kind = kinds.get(type(first), ValueType.STRING)
            metadata.set(f"tokenizer.ggml.{key}", value, ValueType.ARRAY, kind)
        else:
            kinds = {bool: ValueType.BOOL, int: ValueType.U32, str: ValueType.STRING}
            metadata.set(f"tokenizer.ggml.{key}", value, kinds[type(value)])
    return metadata


def spm(pieces: Mapping[str, float], special: Mapping[str, int] = {}, **keys: Any) -> Metadata:
    """<unk> <s> </s>, the bytes, `special` texts of a type, and `pieces` with scores."""
    tokens = ["<unk>", "<s>", "</s>", *BYTES, *special, *pieces]
    types = [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, *special.values(), *[NORMAL] * len(pieces)]
    scores = [0.0] * (259 + len(special)) + [float(score) for score in pieces.values()]
    given = {"model": "llama", "tokens": tokens, "scores": scores, "token_type": types}
    return metadata_of(given | keys)


def bpe(merges: Iterable[str], special: Mapping[str, int] = {}, **keys: Any) -> Metadata:
    """The 256 letters, what `merges` make of them, and `special` texts of a type."""
    letters = [chr(c) for c in (*range(33, 127), *range(161, 173), *range(174, 256))]
    letters += [chr(256 + n) for n in range(256 - len(letters))]
    merged = list(dict.fromkeys(merge.replace(" ", "") for merge in merges))
    tokens = [*letters, *merged, *special]
    types = [NORMAL] * (len(tokens) - len(special)) + list(special.values())
    given = {"model": "gpt2", "pre": "gpt-2", "tokens": tokens, "token_type": types}
    return metadata_of(given | {"merges": list(merges)} | keys)
