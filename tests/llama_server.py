"""llama.cpp itself as an oracle: its server, in this process, from the `xllamacpp` wheel.

It speaks token ids on both sides. One slot, so that the answers do not depend on each other's
timing; one thread, since two that wait for each other are slow beside other work.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt


class Greedy(NamedTuple):
    """What llama.cpp goes on with: the most likely token each time, an end token included."""

    tokens: list[int]
    text: str


class LlamaServer:
    """llama.cpp with one GGUF file, and a KV cache of one type. A context manager."""

    def __init__(self, path: Path, n_ctx: int = 1024, cache_type: str = "f16") -> None:
        import xllamacpp

        params = xllamacpp.CommonParams()
        kind = xllamacpp.ggml_type[f"GGML_TYPE_{cache_type.upper()}"]
        params.cache_type_k = params.cache_type_v = kind
        params.model.path = str(path)
        params.n_ctx = n_ctx
        params.n_parallel = 1
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
        params.swa_full = True  # else a prompt that grows is read again from the window on
        params.warmup = params.fit_params = params.ui = False
        params.verbosity = 0
        self._server: Any = xllamacpp.Server(params)

    def tokenize(self, text: str) -> list[int]:
        """Token ids, with a BOS where the model wants one; texts of special tokens are parsed."""
        asked = {"content": text, "add_special": True, "parse_special": True}
        tokens: list[int] = self._post("/tokenize", asked)["tokens"]
        return tokens

    def greedy(self, prompt: Sequence[int], count: int) -> Greedy:
        """At most `count` tokens behind `prompt`, fewer if one of them ends the text."""
        answer = self._complete(prompt, n_predict=count)
        return Greedy(answer["tokens"], answer["content"])

    def top_log_probabilities(
        self, tokens: Sequence[int], n_probs: int, every: int = 1
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """([T, N] ids, [T, N] natural logarithms): the likeliest tokens behind each of `tokens`.

        Or behind `every` second, third, ... only. One request each: what the one before it read
        comes from the cache.
        """
        ids, logs = [], []
        for end in range(every, len(tokens) + 1, every):
            answer = self._complete(tokens[:end], n_predict=1, n_probs=n_probs)
            top = answer["completion_probabilities"][0]["top_logprobs"]
            ids.append([entry["id"] for entry in top])
            logs.append([entry["logprob"] for entry in top])
        return np.array(ids), np.array(logs)

    def _complete(self, prompt: Sequence[int], **asked: Any) -> Any:
        body = {"prompt": list(prompt), "temperature": 0.0, "cache_prompt": True}
        return self._post("/completion", body | {"return_tokens": True} | asked)

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            self._server.listening_address + path,
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def close(self) -> None:
        """Stop the server and free the model."""
        self._server = None

    def __enter__(self) -> LlamaServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()
