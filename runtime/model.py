"""A GGUF file ready to run: checked, tokenizer and chat template at hand, sessions on demand."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ggq.errors import FormatError, UnsupportedModelError, UsageError
from ggq.metadata import Metadata
from ggq.reader import Reader, Tensor
from ggq.runtime import arch, generation, tokenizer
from ggq.runtime.arch import HParams, check_tensors
from ggq.runtime.cores import usable_cores
from ggq.runtime.kernels.cache import HEAD_STEP
from ggq.runtime.kernels.cache_types import by_name as cache_type
from ggq.runtime.prefetch import Prefetch
from ggq.runtime.session import Session
from ggq.runtime.threads import Team

if TYPE_CHECKING:
    from ggq.runtime.chat import Chat

WITHOUT_WEIGHTS = ("Q8_1", "Q8_K", "I8", "I16", "I32", "I64")  # types of other data
ROPE_DIVISORS = "rope_freqs.weight"
_DEFAULT_CONTEXT = 4096  # of the methods that open a session themselves


def load(
    path: str | os.PathLike[str], *, n_threads: int = 0, mapped: bool = True, exact: bool = False,
    cache_type_k: str = "f16", cache_type_v: str = "f16",
) -> Model:  # fmt: skip
    """Open a model. `n_threads` 0 means one per physical core; without `mapped` it is read whole.

    With `exact` activations stay singles instead of being rounded, to bytes for quantized weights
    and in prompts to 16 bits for F16 and BF16: about half the speed, and the logits are those of
    the weights as they are. Keys and values of
    past positions are kept as f32, f16, bf16, q8_0 or q4_0.
    Raises FormatError where the file lies about itself, UnsupportedModelError for an architecture
    ggq does not implement.
    """
    types = {"cache_type_k": cache_type_k, "cache_type_v": cache_type_v}
    return Model(Reader(path, mapped=mapped), n_threads, exact=exact, **types)


class Model:
    """Weights of one file, read where they lie in the memory map, and a team of threads."""

    def __init__(
        self, reader: Reader, n_threads: int = 0, *, exact: bool = False,
        cache_type_k: str = "f16", cache_type_v: str = "f16",
    ) -> None:  # fmt: skip
        if n_threads < 0:
            raise UsageError(f"wanted a number of threads, or 0 for all cores, not {n_threads}")
        self.reader = reader
        self.arch = arch.by_name(reader.metadata.require("general.architecture", str))
        self.hparams: HParams = self.arch.hparams(reader.metadata)
        shapes = {name: tensor.shape for name, tensor in reader.tensors.items()}
        check_tensors(self.arch.tensors(self.hparams), shapes)
        _check_types(reader.tensors)
        _check_vectors(reader.tensors)
        _check_heads(self.arch.name, self.hparams)
        self.n_threads = n_threads or usable_cores()
        self.exact = exact
        self._cache_types = cache_type_k, cache_type_v
        for name in self._cache_types:
            cache_type(name, self.hparams.head_dim)
        self._opening = threading.Lock()
        self._team: Team | None = None
        self._prefetch: Prefetch | None = None
        self._closed = False

    @property
    def metadata(self) -> Metadata:
        """Every key of the file."""
        return self.reader.metadata

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the file by name; `.data` is a view of the map, `.dequantize()` f32."""
        return self.reader.tensors

    @cached_property
    def tokenizer(self) -> tokenizer.Tokenizer:
        """The tokenizer, rebuilt from the metadata."""
        return tokenizer.from_metadata(self.metadata)

    @cached_property
    def chat_template(self) -> Chat:
        """The chat template; `.available` tells whether there is one."""
        from ggq.runtime.chat import Chat

        return Chat(self.metadata, self.tokenizer)

    def session(self, n_ctx: int = 0, *, cache_type_k: str = "", cache_type_v: str = "") -> Session:
        """A new text. `n_ctx` 0 means all the model was trained for. Raises OutOfMemoryError.

        Without cache types those given to `load` are used.
        Sessions are independent; threads may each use one, and take turns. Raises ValueError once
        the model is closed.
        """
        if n_ctx < 0:
            raise UsageError(f"wanted a context size, or 0 for the model's own, not {n_ctx}")
        with self._opening:
            if self._closed:
                raise ValueError("the model is closed")
            self._team = self._team or Team(self.n_threads)
            self._prefetch = self._prefetch or Prefetch(self.tensors.values())
        return Session(
            self.arch, self.hparams, self.tensors, self._team, n_ctx or self.hparams.n_ctx,
            exact=self.exact, cache_type_k=cache_type_k or self._cache_types[0],
            cache_type_v=cache_type_v or self._cache_types[1],
        )  # fmt: skip

    def logits(self, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        """f32 [T, V]: the logits behind each of the tokens, from an empty cache."""
        return self.session(max(len(tokens), 1)).score(tokens)

    def tokenize(
        self, text: str, *, add_special: bool = True, parse_special: bool = True
    ) -> list[int]:
        """Token ids of a text."""
        return self.tokenizer.encode(text, add_special=add_special, parse_special=parse_special)

    def detokenize(self, tokens: Sequence[int], *, special: bool = False) -> str:
        """Text of token ids; `special` writes control tokens out."""
        return self.tokenizer.decode(tokens, special=special)

    def stream(self, prompt: str, *, n_ctx: int = 0, **options: Any) -> Iterator[generation.Chunk]:
        """Continue a text piece by piece. Options: max_tokens, stop, and SamplerParams' fields."""
        return generation.generate(self._own_session(n_ctx), self.tokenizer, prompt, **options)

    def generate(self, prompt: str, *, n_ctx: int = 0, **options: Any) -> str:
        """Continue a text. Options: max_tokens, stop, and SamplerParams' fields."""
        return generation.text_of(self.stream(prompt, n_ctx=n_ctx, **options))

    def chat(self, messages: generation.Messages | str, *, n_ctx: int = 0, **options: Any) -> str:
        """Answer a conversation, or one user message, through the chat template."""
        session = self._own_session(n_ctx)
        return generation.text_of(
            generation.answer(session, self.tokenizer, self.chat_template, messages, **options)
        )

    def _own_session(self, n_ctx: int) -> Session:
        return self.session(n_ctx or min(self.hparams.n_ctx, _DEFAULT_CONTEXT))

    def close(self) -> None:
        """End the threads and unmap the file; nothing of the model may be used afterwards."""
        with self._opening:
            self._closed = True
            if self._team:
                self._team.close()
            if self._prefetch:
                self._prefetch.close()
        self.reader.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()


def _check_types(tensors: dict[str, Tensor]) -> None:
    """Vectors are read as singles; matrices may be of any type that has numbers."""
    for name, tensor in tensors.items():
        if len(tensor.shape) == 1 and tensor.type.name != "F32":
            raise FormatError(f"tensor {name} is a vector of {tensor.type}, wanted F32")
        if tensor.type.name in WITHOUT_WEIGHTS:
            raise FormatError(f"tensor {name} has type {tensor.type}, which holds no weights")


def _check_vectors(tensors: dict[str, Tensor]) -> None:
    """Norms, biases and divisors of rope: few numbers, of which each reaches every token."""
    for name, tensor in tensors.items():
        if len(tensor.shape) != 1:
            continue
        values = tensor.data.view("<f4")
        if not np.isfinite(values).all():
            raise FormatError(f"tensor {name} holds values that are not finite")
        if name == ROPE_DIVISORS and not (values > 0).all():
            raise FormatError(f"tensor {name} holds divisors that are not above 0")


def _check_heads(arch_name: str, h: HParams) -> None:
    if h.head_dim % HEAD_STEP:
        raise UnsupportedModelError(
            f"{arch_name}.attention.key_length is {h.head_dim}; "
            f"only heads of a multiple of {HEAD_STEP} can be run"
        )
