"""OpenVINO GenAI's speed: python peer_openvino.py MODEL THREADS REPETITIONS N_PROMPT N_GEN

Its own defaults, which are its fastest here. A prompt's speed is that of the time to the first
token; every prompt is new, since it keeps what it has read. Prints JSON.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import openvino
import openvino_genai as genai

N_VOCAB = 40_000  # ids below are in any vocabulary


def run(pipe: Any, rng: np.random.Generator, n_prompt: int, n_gen: int) -> Any:
    """Metrics of one generation."""
    config = genai.GenerationConfig()
    config.do_sample, config.ignore_eos = False, True
    config.min_new_tokens = config.max_new_tokens = n_gen
    ids = rng.integers(1000, N_VOCAB, (1, n_prompt))
    inputs = genai.TokenizedInputs(openvino.Tensor(ids), openvino.Tensor(np.ones_like(ids)))
    return pipe.generate(inputs, config).perf_metrics


def main() -> None:
    """Print the version and the samples."""
    model = sys.argv[1]
    threads, repetitions, n_prompt, n_gen = map(int, sys.argv[2:6])
    pipe = genai.LLMPipeline(model, "CPU", INFERENCE_NUM_THREADS=threads)
    rng = np.random.default_rng(0)
    samples = []
    run(pipe, rng, n_prompt or 1, 2)
    for _ in range(repetitions):
        if n_prompt:
            samples.append(1e3 * n_prompt / run(pipe, rng, n_prompt, 1).get_ttft().mean)
        else:
            samples.append(1e3 / run(pipe, rng, 1, n_gen + 1).get_tpot().mean)
    version = openvino.get_version().split("-")[0]
    print(json.dumps({"version": version, "samples_ts": samples}))


if __name__ == "__main__":
    main()
