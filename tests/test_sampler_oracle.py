"""The sampler against llama.cpp's own: the same tokens stay, with the same probabilities."""

from __future__ import annotations

import json
import math
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ggq.runtime.sampler import Sampler
from ggq.runtime.sampler_params import SamplerParams

Ask = Callable[..., list[dict[str, Any]]]
VOCAB = 49152


@pytest.fixture(scope="module")
def ask(smollm2: Path) -> Iterator[Ask]:
    """Candidates of the token after a prompt, from llama.cpp's server."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(smollm2)
    params.n_ctx = 256
    params.cpuparams.n_threads = 1
    params.warmup = False
    params.verbosity = 0
    server = xllamacpp.Server(params)
    address = server.listening_address

    def post(**settings: Any) -> list[dict[str, Any]]:
        body = {"prompt": "The old man went to", "n_predict": 1, "seed": 3} | settings
        request = urllib.request.Request(
            f"{address}/completion",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as reply:
            (token,) = json.load(reply)["completion_probabilities"]
        return token.get("top_logprobs") or token["top_probs"]

    yield post
    del server


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temp": 0.3},
        {"temp": 2.0, "top_k": 100, "top_p": 0.99, "min_p": 0.0},
        {"top_k": 5, "top_p": 1.0, "min_p": 0.0},
        {"top_k": 0, "top_p": 0.5},
        {"min_p": 0.2, "top_p": 1.0},
    ],
    ids=str,
)
def test_candidates_and_probabilities_are_llama_cpps(ask: Ask, settings: dict[str, Any]) -> None:
    logits = np.full(VOCAB, -math.inf, np.float32)
    for entry in ask(n_probs=1000, temperature=1.0):
        logits[entry["id"]] = entry["logprob"]
    theirs = {"temperature" if key == "temp" else key: value for key, value in settings.items()}
    kept = ask(n_probs=200, post_sampling_probs=True, **theirs)
    wanted = {entry["id"]: entry["prob"] for entry in kept if entry["prob"] > 0}
    ids, probabilities = Sampler(SamplerParams(**settings)).candidates(logits)
    assert set(ids.tolist()) == set(wanted)
    np.testing.assert_allclose(probabilities, [wanted[i] for i in ids.tolist()], rtol=1e-4)
