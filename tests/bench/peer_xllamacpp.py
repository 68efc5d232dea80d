"""llama.cpp's speed as its wheel has it: python peer_xllamacpp.py MODEL THREADS REPETITIONS P N

The server within the `xllamacpp` wheel tells how long prompt and answer took. Prints JSON.
"""

from __future__ import annotations

import importlib.metadata
import json
import random
import sys
import urllib.request
from typing import Any

import xllamacpp

N_VOCAB = 40_000  # ids below are in any vocabulary


def started(model: str, threads: int, n_ctx: int) -> Any:
    """The server."""
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.n_ctx = n_ctx
    params.n_parallel = 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.fit_params = params.ui = False
    params.verbosity = 0
    return xllamacpp.Server(params)


def timings(server: Any, n_prompt: int, n_gen: int) -> Any:
    """What the server tells of one completion of a new prompt."""
    prompt = [random.randrange(1000, N_VOCAB) for _ in range(n_prompt)]
    body = {
        "prompt": prompt, "n_predict": n_gen, "ignore_eos": True, "cache_prompt": False,
        "samplers": ["top_k"], "top_k": 1,
    }  # fmt: skip
    request = urllib.request.Request(
        server.listening_address + "/completion", json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )  # fmt: skip
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)["timings"]


def main() -> None:
    """Print the version and the samples."""
    threads, repetitions, n_prompt, n_gen = map(int, sys.argv[2:6])
    server = started(sys.argv[1], threads, n_prompt + n_gen + 64)
    timings(server, n_prompt or 1, 4)
    samples = []
    for _ in range(repetitions):
        if n_prompt:
            samples.append(timings(server, n_prompt, 1)["prompt_per_second"])
        else:
            samples.append(timings(server, 1, n_gen)["predicted_per_second"])
    version = importlib.metadata.version("xllamacpp")
    print(json.dumps({"version": version, "samples_ts": samples}))


if __name__ == "__main__":
    main()
