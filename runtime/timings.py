"""Where the time of a run went, printed in the form llama.cpp prints it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Stage:
    """One kind of work: seconds spent and how many tokens they were spent on."""

    seconds: float = 0.0
    count: int = 0

    @contextmanager
    def measure(self, count: int = 1) -> Iterator[None]:
        """Add the time of the block, and `count` if it ends normally."""
        start = time.perf_counter()
        try:
            yield
            self.count += count
        finally:
            self.seconds += time.perf_counter() - start

    @property
    def per_second(self) -> float:
        """Tokens per second."""
        return self.count / self.seconds if self.seconds else 0.0

    def __str__(self) -> str:
        each = 1e3 * self.seconds / self.count if self.count else 0.0
        return f"({each:8.2f} ms per token, {self.per_second:8.2f} tokens per second)"


@dataclass
class Timings:
    """The stages of a run; `load` counts models, `prompt` and `decode` tokens, `sample` draws."""

    load: Stage = field(default_factory=Stage)
    prompt: Stage = field(default_factory=Stage)
    decode: Stage = field(default_factory=Stage)
    sample: Stage = field(default_factory=Stage)
    start: float = field(default_factory=time.perf_counter)

    def lines(self, prefix: str) -> list[str]:
        """The report, each line with `prefix` in front; forms: llama.cpp common/sampling.cpp."""
        total = 1e3 * (time.perf_counter() - self.start)
        load, prompt, decode, sample = (
            1e3 * stage.seconds for stage in (self.load, self.prompt, self.decode, self.sample)
        )
        n_prompt, n_decode, n_all = self.prompt.count, self.decode.count, self._tokens
        return [
            f"{prefix}:    sampling time = {sample:10.2f} ms / {self.sample.count:5d} runs",
            f"{prefix}:        load time = {load:10.2f} ms",
            f"{prefix}: prompt eval time = {prompt:10.2f} ms / {n_prompt:5d} tokens {self.prompt}",
            f"{prefix}:        eval time = {decode:10.2f} ms / {n_decode:5d} runs   {self.decode}",
            f"{prefix}:       total time = {total:10.2f} ms / {n_all:5d} tokens",
        ]

    @property
    def _tokens(self) -> int:
        return self.prompt.count + self.decode.count
