"""The token table of a GGUF file: texts, types, special tokens, and which tokens end a generation.

Facts: llama.cpp src/llama-vocab.cpp `llama_vocab::impl::load` and its lists of token names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from ggq.errors import TokenizerError
from ggq.metadata import Metadata
from ggq.strings import StringArray

TOKENS_KEY = "tokenizer.ggml.tokens"
TYPES_KEY = "tokenizer.ggml.token_type"
SCORES_KEY = "tokenizer.ggml.scores"
_SURROGATE = re.compile("[\ud800-\udfff]")


class TokenType(IntEnum):
    """What a token is, with the numbers of the file."""

    UNDEFINED = 0
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


# Role -> keys that name its token; the later ones are old names.
ROLES = {
    "bos": ("bos_token_id",),
    "eos": ("eos_token_id",),
    "eot": ("eot_token_id",),
    "eom": ("eom_token_id",),
    "unk": ("unknown_token_id",),
    "sep": ("seperator_token_id",),
    "pad": ("padding_token_id",),
    "mask": ("mask_token_id",),
    "fim_pre": ("fim_pre_token_id", "prefix_token_id"),
    "fim_suf": ("fim_suf_token_id", "suffix_token_id"),
    "fim_mid": ("fim_mid_token_id", "middle_token_id"),
    "fim_pad": ("fim_pad_token_id",),
    "fim_rep": ("fim_rep_token_id",),
    "fim_sep": ("fim_sep_token_id",),
}

# Role -> texts of tokens that have it when no key says so.
ROLE_NAMES = {
    "eot": (
        "<|eot_id|>",
        "<|im_end|>",
        "<|end|>",
        "<end_of_turn>",
        "<|endoftext|>",
        "<|end_of_text|>",
        "<EOT>",
        "_<EOT>",
        "[EOT]",
        "<｜end▁of▁sentence｜>",
        "<end_of_utterance>",
    ),
    "eom": ("<|eom_id|>",),
    "fim_pre": (
        "<|fim_prefix|>",
        "<fim-prefix>",
        "<fim_prefix>",
        "<｜fim▁begin｜>",
        "<PRE>",
        "▁<PRE>",
        "<|code_prefix|>",
        "<|prefix|>",
    ),
    "fim_suf": (
        "<|fim_suffix|>",
        "<fim-suffix>",
        "<fim_suffix>",
        "<｜fim▁hole｜>",
        "<SUF>",
        "▁<SUF>",
        "<|code_suffix|>",
        "<|suffix|>",
    ),
    "fim_mid": (
        "<|fim_middle|>",
        "<fim-middle>",
        "<fim_middle>",
        "<｜fim▁end｜>",
        "<MID>",
        "▁<MID>",
        "<|code_middle|>",
        "<|middle|>",
    ),
    "fim_pad": ("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"),
    "fim_rep": ("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"),
    "fim_sep": ("<|file_sep|>",),
}

END_ROLES = ("fim_pad", "fim_rep", "fim_sep", "eos", "eot", "eom")
END_NAMES = (
    *ROLE_NAMES["eot"],
    "<|eom_id|>",
    "<|return|>",
    "<|call|>",
    "<|calls|>",
    "<|flush|>",
    "</s>",
    "[EOS]",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "[e~[",
)
# Tokens of the gpt-oss message format, which a reader of the text needs to see.
VISIBLE_NAMES = ("<|channel|>", "<|message|>", "<|start|>", "<|constrain|>")
# With one token of each pair, "<|end|>" ends a message but not the generation.
INNER_END = (("<|call|>", "<|calls|>"), ("<|return|>", "<|flush|>"))
# With one of these, "</s>" is an ordinary text.
PLAIN_S = ("<|tool_response>", "<|plamo:eos|>")


class Vocabulary:
    """`tokens`: texts by number; `ids`: the inverse; `types` i32 [V]; `roles`: role -> token.

    `types` has llama.cpp's corrections, so a token that ends a generation is CONTROL.
    `end` holds every token that ends a generation.
    """

    def __init__(self, metadata: Metadata, default_roles: Mapping[str, int]) -> None:
        self.metadata = metadata
        self.tokens = _texts(metadata)
        self.ids = dict(zip(self.tokens, range(len(self.tokens)), strict=True))
        if len(self.ids) != len(self.tokens):
            raise TokenizerError(
                f"{TOKENS_KEY} holds {len(self.tokens)} tokens, "
                f"but only {len(self.ids)} different ones"
            )
        self.types = _types(metadata, len(self.tokens))
        self.roles = self._find_roles(default_roles)
        self.end = frozenset(self._find_end())

    def __len__(self) -> int:
        return len(self.tokens)

    def raw(self, token: int) -> bytes:
        """Bytes of a token's text."""
        return self.tokens[token].encode("utf-8", "surrogateescape")

    def of_types(self, wanted: Iterable[TokenType]) -> dict[str, int]:
        """Text -> number of every token of the `wanted` types."""
        found = np.flatnonzero(np.isin(self.types, [int(kind) for kind in wanted])).tolist()
        return {self.tokens[token]: token for token in found}

    def scores(self) -> npt.NDArray[np.float32]:
        """f32 [V], zeros if the file has none. Raises TokenizerError."""
        n = len(self)
        if SCORES_KEY not in self.metadata:
            return np.zeros(n, np.float32)
        return _numbers(self.metadata, SCORES_KEY, n, "if").astype(np.float32)

    def _find_roles(self, default_roles: Mapping[str, int]) -> dict[str, int]:
        n = len(self)
        roles = {role: token for role, token in default_roles.items() if token < n}
        for role, keys in ROLES.items():
            for key in keys:
                token = self.metadata.get_int(f"tokenizer.ggml.{key}", -1)
                # A number that is no token is passed over, as the reference does.
                if 0 <= token < n:
                    roles[role] = token
        for role, names in ROLE_NAMES.items():
            found = next((self.ids[name] for name in names if name in self.ids), None)
            if role not in roles and found is not None:
                roles[role] = found
                self.types[found] = TokenType.CONTROL
        return roles

    def _find_end(self) -> set[int]:
        named = {name: self.ids[name] for name in END_NAMES if name in self.ids}
        self.types[list(named.values())] = TokenType.CONTROL
        for name in VISIBLE_NAMES:
            if name in self.ids:
                self.types[self.ids[name]] = TokenType.USER_DEFINED
        end = {self.roles[role] for role in END_ROLES if role in self.roles}
        end |= set(named.values())
        if "<|end|>" in named and not any(map(named.keys().isdisjoint, INNER_END)):
            end.discard(named["<|end|>"])
            self.types[named["<|end|>"]] = TokenType.USER_DEFINED
        if "</s>" in named and any(self.ids.get(name) in end for name in PLAIN_S):
            end.discard(named["</s>"])
            self.types[named["</s>"]] = TokenType.NORMAL
        return end


def unicode_only(ids: dict[str, int]) -> dict[str, int]:
    """`ids` without the texts that are not valid UTF-8 in the file."""
    try:
        "".join(ids).encode()
    except UnicodeEncodeError:
        return {text: token for text, token in ids.items() if not _SURROGATE.search(text)}
    return ids


def _texts(metadata: Metadata) -> list[str]:
    tokens = metadata.require(TOKENS_KEY, StringArray).tolist()
    if not tokens:
        raise TokenizerError(f"{TOKENS_KEY} is empty")
    if "" in tokens:
        return [text or f"[EMPTY_{number}]" for number, text in enumerate(tokens)]
    return tokens


def _types(metadata: Metadata, n: int) -> npt.NDArray[np.int32]:
    if TYPES_KEY not in metadata:
        return np.full(n, TokenType.NORMAL, np.int32)
    return _numbers(metadata, TYPES_KEY, n, "i").astype(np.int32)


def _numbers(metadata: Metadata, key: str, n: int, kinds: str) -> npt.NDArray[Any]:
    """The first `n` numbers of an array with a dtype of one of the `kinds`."""
    values = metadata.require(key, np.ndarray)
    if values.dtype.kind not in kinds or values.dtype.itemsize != 4:
        raise TokenizerError(f"{key} is an array of {values.dtype}, not of 32-bit numbers")
    if len(values) < n:
        raise TokenizerError(f"{key} has {len(values):,} items for {n:,} tokens")
    return values[:n]
