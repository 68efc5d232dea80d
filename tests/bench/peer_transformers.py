"""transformers' speed: python peer_transformers.py FOLDER THREADS REPETITIONS N_PROMPT N_GEN DTYPE

FOLDER is a Hugging Face directory, DTYPE f32 or bf16. Logits of the last token only. Prints JSON.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import torch
import transformers


def run(model: Any, ids: torch.Tensor, n_prompt: int, n_gen: int) -> float:
    """Seconds of a prompt, or of an answer token by token."""
    start = time.perf_counter()
    if n_prompt:
        model(ids[:, :n_prompt], logits_to_keep=1)
        return time.perf_counter() - start
    cache = transformers.DynamicCache(config=model.config)
    for k in range(n_gen):
        model(ids[:, k : k + 1], past_key_values=cache, use_cache=True)
    return time.perf_counter() - start


def main() -> None:
    """Print the version and the samples."""
    folder, dtype = sys.argv[1], {"f32": torch.float32, "bf16": torch.bfloat16}[sys.argv[6]]
    threads, repetitions, n_prompt, n_gen = map(int, sys.argv[2:6])
    torch.set_num_threads(threads)
    with torch.inference_mode():
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
        ids = torch.randint(0, model.config.vocab_size, (1, n_prompt + n_gen))
        run(model, ids, n_prompt, min(n_gen, 4))
        seconds = [run(model, ids, n_prompt, n_gen) for _ in range(repetitions)]
    samples = [(n_prompt + n_gen) / s for s in seconds]
    version = f"{transformers.__version__}, torch {torch.__version__}"
    print(json.dumps({"version": version, "samples_ts": samples}))


if __name__ == "__main__":
    main()
