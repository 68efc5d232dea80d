"""What to measure: every combination of the lists on the command line, in llama-bench's order.

Names, defaults and the form of the lists: llama.cpp tools/llama-bench/llama-bench.cpp.
"""

from __future__ import annotations

import argparse
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass

MODEL_BATCH = 512  # tokens a model takes at a time at most


@dataclass(frozen=True)
class Case:
    """One line of the result: a prompt, an answer, or both, behind `n_depth` tokens."""

    model: str
    n_prompt: int
    n_gen: int
    n_depth: int = 0
    n_batch: int = 2048
    n_ubatch: int = MODEL_BATCH
    n_threads: int = 1
    exact: bool = False

    @property
    def name(self) -> str:
        """pp512, tg128, pp512+tg128 @ d4096."""
        parts = [f"pp{self.n_prompt}"] * bool(self.n_prompt)
        parts += [f"tg{self.n_gen}"] * bool(self.n_gen)
        return "+".join(parts) + (f" @ d{self.n_depth}" if self.n_depth else "")

    @property
    def n_ctx(self) -> int:
        """Positions the case needs."""
        return self.n_depth + self.n_prompt + self.n_gen

    @property
    def step(self) -> int:
        """Tokens of the prompt given at a time."""
        return min(self.n_batch, self.n_ubatch)


def cases(args: argparse.Namespace, models: list[str], threads: list[int]) -> Iterator[Case]:
    """Every case of a command line; lengths of 0 are left out."""
    pairs = [(n, 0) for n in args.n_prompt] + [(0, n) for n in args.n_gen] + args.pg
    settings = (models, args.batch_size, args.ubatch_size, threads, args.n_depth)
    for model, batch, ubatch, n_threads, depth in itertools.product(*settings):
        for n_prompt, n_gen in pairs:
            if n_prompt or n_gen:
                yield Case(model, n_prompt, n_gen, depth, batch, ubatch, n_threads, args.exact)


def numbers(text: str) -> list[int]:
    """Numbers of a list: "512", "1,2,4", "1-4", "64-256+64", "1-16*2"."""
    return [number for part in text.split(",") for number in _range(part)]


def positive_numbers(text: str) -> list[int]:
    """As `numbers`, none of them 0."""
    found = numbers(text)
    if 0 in found:
        raise argparse.ArgumentTypeError("0 is not possible here")
    return found


def _range(text: str) -> list[int]:
    found = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9})(?:([+*])(\d{1,9}))?)?", text.strip())
    if not found:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number, nor a range such as 1-4, 64-256+64 or 1-16*2"
        )
    first, last, sign, step = found.groups()
    here, end, by = int(first), int(last or first), int(step or 1)
    if (sign == "*" and (by < 2 or here < 1)) or by < 1:
        raise argparse.ArgumentTypeError(f"{text!r} never reaches its end")
    out = []
    while here <= end:
        out.append(here)
        here = here * by if sign == "*" else here + by
    return out


def pair(text: str) -> tuple[int, int]:
    """A prompt and the answer to it, timed together: "512,128"."""
    found = re.fullmatch(r"(\d{1,9}),(\d{1,9})", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form PROMPT,ANSWER")
    return int(found[1]), int(found[2])
