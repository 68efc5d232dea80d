"""What a tokenizer is: text to token numbers and back, built from the metadata of a GGUF file.

Facts: llama.cpp src/llama-vocab.cpp.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import cached_property
from typing import ClassVar

from ggq.errors import TokenizerError
from ggq.metadata import Metadata
from ggq.runtime.tokenizer._special import SpecialTokens
from ggq.runtime.tokenizer._stream import TextStream
from ggq.runtime.tokenizer._vocabulary import TokenType, Vocabulary

NORMAL, BYTE, USER_DEFINED = TokenType.NORMAL, TokenType.BYTE, TokenType.USER_DEFINED
HIDDEN = (TokenType.CONTROL, TokenType.UNKNOWN)


class Tokenizer(ABC):
    """One tokenizer algorithm. A subclass in a file of this folder registers itself by being there.

    Class attributes to give: `models`, the values of `tokenizer.ggml.model` it stands for, and
    `default_roles`, the special tokens of files that do not name them.
    Attributes: `vocabulary`, `add_bos`, `add_eos`, `space_prefix`.
    """

    models: ClassVar[tuple[str, ...]]
    default_roles: ClassVar[dict[str, int]]
    space_prefix = False

    def __init__(self, metadata: Metadata) -> None:
        self.vocabulary = Vocabulary(metadata, self.default_roles)
        self.add_bos = False
        self.add_eos = False

    @abstractmethod
    def _encode_text(self, text: str, after_special: bool) -> list[int]:
        """Tokens of a non-empty text without special tokens."""

    @abstractmethod
    def _normal_bytes(self, token: int) -> bytes:
        """Bytes that a NORMAL token stands for."""

    @property
    def n_vocab(self) -> int:
        """Number of tokens."""
        return len(self.vocabulary)

    @property
    def eog(self) -> frozenset[int]:
        """Every token that ends a generation."""
        return self.vocabulary.end

    @property
    def bos(self) -> int | None:
        """The token that begins a text."""
        return self.vocabulary.roles.get("bos")

    @property
    def eos(self) -> int | None:
        """The token that ends a text."""
        return self.vocabulary.roles.get("eos")

    @property
    def eot(self) -> int | None:
        """The token that ends a turn of a chat."""
        return self.vocabulary.roles.get("eot")

    @property
    def eom(self) -> int | None:
        """The token that ends a message."""
        return self.vocabulary.roles.get("eom")

    @property
    def unk(self) -> int | None:
        """The token for what has none."""
        return self.vocabulary.roles.get("unk")

    @property
    def pad(self) -> int | None:
        """The token that fills up a batch."""
        return self.vocabulary.roles.get("pad")

    def token_text(self, token: int) -> str:
        """Text of a token as the vocabulary has it. Raises TokenizerError."""
        return self.vocabulary.tokens[self._checked(token)]

    def token_id(self, text: str) -> int | None:
        """Number of the token whose text in the vocabulary is `text`."""
        return self.vocabulary.ids.get(text)

    def encode(
        self, text: str, *, add_special: bool = True, parse_special: bool = True
    ) -> list[int]:
        """Tokens of `text`.

        `add_special` puts the vocabulary's BOS in front and EOS behind, never a second one.
        `parse_special` takes the texts of control tokens for these tokens; user-defined tokens
        are always found. Characters that are not Unicode (lone surrogates) become U+FFFD.
        """
        special = self._all_special if parse_special else self._user_special
        tokens: list[int] = []
        after_special = True
        for part in special.split(_unicode(text)):
            if isinstance(part, int):
                tokens.append(part)
            else:
                tokens += self._encode_text(part, after_special)
            after_special = isinstance(part, int)
        if add_special and self.add_bos and self.bos is not None and tokens[:1] != [self.bos]:
            tokens.insert(0, self.bos)
        if add_special and self.add_eos and self.eos is not None and tokens[-1:] != [self.eos]:
            tokens.append(self.eos)
        return tokens

    def token_bytes(self, token: int, special: bool = False) -> bytes:
        """Bytes a token stands for; none for control tokens unless `special`.

        Raises TokenizerError.
        """
        kind = self._kinds[self._checked(token)]
        if kind == NORMAL:
            return self._normal_bytes(token)
        if kind == BYTE:
            return bytes([self._byte(token)])
        if kind == USER_DEFINED or (special and kind in HIDDEN):
            return self.vocabulary.raw(token)
        return b""

    def decode(
        self, tokens: Iterable[int], *, special: bool = False, continuing: bool = False
    ) -> str:
        """Text of `tokens`; bytes that are not UTF-8 become U+FFFD.

        The space that encoding puts in front of a text is left out, unless the text is
        `continuing` another one. Raises TokenizerError.
        """
        raw = b"".join([self.token_bytes(token, special) for token in tokens])
        if self.space_prefix and not continuing:
            raw = raw.removeprefix(b" ")
        return raw.decode("utf-8", "replace")

    def stream(self, *, special: bool = False, continuing: bool = True) -> TextStream:
        """Decoder of one token at a time; the arguments are those of `decode`."""

        def token_bytes(token: int) -> bytes:
            return self.token_bytes(token, special)

        return TextStream(token_bytes, drop_space=self.space_prefix and not continuing)

    @cached_property
    def _kinds(self) -> list[int]:
        kinds: list[int] = self.vocabulary.types.tolist()
        return kinds

    @cached_property
    def _all_special(self) -> SpecialTokens:
        return self._special((*HIDDEN, USER_DEFINED))

    @cached_property
    def _user_special(self) -> SpecialTokens:
        return self._special((USER_DEFINED,))

    def _special(self, types: Iterable[TokenType]) -> SpecialTokens:
        ids = self.vocabulary.of_types(types)
        metadata = self.vocabulary.metadata
        name = metadata.get_str("general.name", "").lower()
        if "phi-3" in name or "phi3" in name:
            keep = {"<unk>", "<s>", "<|endoftext|>"}
            return SpecialTokens(ids, strip_right={ids[text] for text in ids.keys() - keep})
        return SpecialTokens(ids)

    def _checked(self, token: int) -> int:
        if not 0 <= token < self.n_vocab:
            raise TokenizerError(f"token {token} is not one of the {self.n_vocab:,} tokens")
        return token

    def _byte(self, token: int) -> int:
        text = self.vocabulary.tokens[token]
        try:
            return int(text[3:5], 16)
        except ValueError:
            raise TokenizerError(
                f"token {token} is a byte, but its text {text!r} is not of the form <0x0A>"
            ) from None


def _unicode(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
