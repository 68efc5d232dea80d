"""Greedy texts of real models: as llama.cpp's from the same file, and as the exact file's.

Where two texts part, the exact logits, those of the file with all weights as singles, must show a
tie: 0.05 nats where no activation is rounded. With quantized weights llama.cpp rounds activations
to eight bits, in blocks of 32 or, for k-quants, of 256 with one scale; so does ggq unless it is
told not to. That moves logits by about sqrt(2 KLD) nats (test_kld.py has the figures, the same for
both), and differences of two logits of two programs by several times as much.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import ggq
from ggq.runtime.model import Model
from tests.exact import write_f32
from tests.llama_server import LlamaServer

PROMPTS: list[str] = json.loads((Path(__file__).parent / "data" / "prompts.json").read_text())
LONG, SHORT = 64, 8
STEP = 8  # tokens asked of llama.cpp at a time: most texts part before LONG
NEAR, NEAR_IN_32, NEAR_IN_256 = 0.05, 1.0, 2.0  # nats, by how activations are rounded
CONVERT = "import sys; from ggq.convert.cli import main; sys.exit(main())"


@dataclass(frozen=True)
class Case:
    """A model; `long` of its prompts go on for LONG tokens, the others for SHORT."""

    model: str
    long: int
    written: bool = False  # by ggq-convert from the model's F32 form, as q4_k
    near: float = NEAR_IN_32


CASES = {
    "smollm2": Case("smollm2", 10),
    "smollm2-written": Case("smollm2", 4, written=True),
    "widened-f32": Case("widened_smollm2", 2, near=NEAR),
    "widened-written": Case("widened_smollm2", 10, written=True, near=NEAR_IN_256),
    "gemma3": Case("gemma3", 10),
    "gemma3-written": Case("gemma3", 4, written=True),
}


@dataclass(frozen=True)
class Parting:
    """Two texts take different tokens behind `tokens`, prompt included."""

    prompt: int
    tokens: list[int]
    behind: int
    theirs: int
    ours: int

    def gap(self, exact: Model) -> float:
        """Nats between the two in the exact logits."""
        logits = exact.session(len(self.tokens)).prefill(self.tokens)
        return abs(float(logits[self.theirs] - logits[self.ours]))

    def shown(self, gap: float) -> str:
        return (
            f"prompt {self.prompt} parts at token {self.behind}: {self.theirs} and {self.ours}, "
            f"{gap:.3f} nats apart in exact logits"
        )


@dataclass(frozen=True)
class Files:
    case: Case
    path: Path
    exact: Path


QUANTIZED = [name for name, case in CASES.items() if case.near != NEAR]


@pytest.fixture(params=CASES, scope="module")
def files(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Files]:
    case = CASES[request.param]
    path: Path = request.getfixturevalue(case.model)
    folder = tmp_path_factory.mktemp("greedy")
    if case.written:
        source = path
        if case.model != "widened_smollm2":
            source = write_f32(path, folder / "source.gguf")
        path = folder / "written.gguf"
        command = [sys.executable, "-c", CONVERT, str(source), str(path), "--type", "q4_k", "-q"]
        subprocess.run(command, check=True)
    exact = path if case.near == NEAR else write_f32(path, folder / "exact.gguf")
    yield Files(case, path, exact)
    for file in folder.iterdir():
        file.unlink()


def show_ties(partings: list[Parting], files: Files, near: float) -> None:
    """Show every parting; fail unless all are ties of less than `near` nats."""
    with ggq.load(files.exact, n_threads=1) as exact:
        gaps = [parting.gap(exact) for parting in partings]
    shown = [each.shown(gap) for each, gap in zip(partings, gaps, strict=True)]
    print(f"{len(PROMPTS) - len(partings)} of {len(PROMPTS)} texts are the same", *shown, sep="\n")
    wrong = [text for text, gap in zip(shown, gaps, strict=True) if gap >= near]
    assert not wrong, "\n".join(wrong)


def test_greedy_text_is_llama_cpps(files: Files) -> None:
    partings = []
    with LlamaServer(files.path) as server, ggq.load(files.path, n_threads=1) as model:
        for number, text in enumerate(PROMPTS):
            count = LONG if number < files.case.long else SHORT
            parting = follow(server, model, number, server.tokenize(text), count)
            partings += [parting] if parting else []
    show_ties(partings, files, files.case.near)


def follow(
    server: LlamaServer, model: Model, number: int, prompt: list[int], count: int
) -> Parting | None:
    """Go on for `count` tokens, to the end of the text, or to where ggq would part from it."""
    session = model.session(len(prompt) + count)
    logits, tokens = session.prefill(prompt), list(prompt)
    while len(tokens) < len(prompt) + count:
        next_tokens = server.greedy(tokens, STEP).tokens
        for theirs in next_tokens:
            ours = int(logits.argmax())
            if ours != theirs:
                return Parting(number, tokens, len(tokens) - len(prompt), theirs, ours)
            tokens.append(theirs)
            logits = session.decode(theirs)
        if len(next_tokens) < STEP:
            break
    return None


@pytest.mark.parametrize("files", QUANTIZED, indirect=True)
def test_first_tokens_are_those_of_single_weights(files: Files) -> None:
    partings = []
    with (
        ggq.load(files.path, n_threads=1, exact=True) as model,
        ggq.load(files.exact, n_threads=1) as exact,
    ):
        for number, text in enumerate(PROMPTS):
            prompt = model.tokenize(text)
            ours = greedy(model, prompt)
            logits = exact.logits(prompt + ours[:-1])[len(prompt) - 1 :]
            for i, (token, row) in enumerate(zip(ours, logits, strict=True)):
                if token != row.argmax():
                    tokens = prompt + ours[:i]
                    partings.append(Parting(number, tokens, i, int(row.argmax()), token))
                    break
    show_ties(partings, files, NEAR)


def greedy(model: Model, prompt: list[int]) -> list[int]:
    """The first SHORT tokens behind a prompt."""
    session = model.session(len(prompt) + SHORT)
    logits, tokens = session.prefill(prompt), []
    while True:
        tokens.append(int(np.argmax(logits)))
        if len(tokens) == SHORT:
            return tokens
        logits = session.decode(tokens[-1])
