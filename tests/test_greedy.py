"""Greedy texts of real models: as llama.cpp's from the same file, and as the exact file's.

Where no activation is rounded, texts may part only at a tie of 0.05 nats in the exact logits, those
of the file with all weights as singles. With quantized weights llama.cpp rounds activations to
eight bits, and so does ggq unless it is told not to; both then leave the exact text at gaps of up
to a nat and more. So there llama.cpp is the measure: ggq must not leave the exact text more often
than llama.cpp does on the same file, and where the two part, exact logits must not side with
llama.cpp more often than with ggq.
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
NEAR = 0.05  # nats: a tie
# Prompts of 20 by which equally good programs may differ: twice the deviation of the difference.
MORE_OFTEN = 6
CONVERT = "import sys; from ggq.convert.cli import main; sys.exit(main())"


@dataclass(frozen=True)
class Case:
    """A model; `long` of its prompts go on for LONG tokens, the others for SHORT."""

    model: str
    long: int
    written: bool = False  # by ggq-convert from the model's F32 form, as q4_k
    rounded: bool = True


CASES = {
    "smollm2": Case("smollm2", 10),
    "smollm2-written": Case("smollm2", 4, written=True),
    "widened-f32": Case("widened_smollm2", 2, rounded=False),
    "widened-written": Case("widened_smollm2", 10, written=True),
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
        """Nats by which the exact logits prefer their token to ours."""
        logits = exact.session(len(self.tokens)).prefill(self.tokens)
        return float(logits[self.theirs] - logits[self.ours])

    def shown(self, gap: float) -> str:
        return (
            f"prompt {self.prompt} parts at token {self.behind}: {self.theirs} and {self.ours}, "
            f"{gap:+.3f} nats in exact logits"
        )


@dataclass(frozen=True)
class Files:
    case: Case
    path: Path
    exact: Path


QUANTIZED = [name for name, case in CASES.items() if case.rounded]
SINGLES = [name for name, case in CASES.items() if not case.rounded]


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
        how = ["--type", "q4_k", "--compat", "llama", "-q"]
        command = [sys.executable, "-c", CONVERT, str(source), str(path), *how]
        subprocess.run(command, check=True)
    exact = write_f32(path, folder / "exact.gguf") if case.rounded else path
    yield Files(case, path, exact)
    for file in folder.iterdir():
        file.unlink()


def gaps_of(partings: list[Parting], files: Files) -> list[float]:
    """Show every parting; the nats by which exact logits prefer their token to ours."""
    with ggq.load(files.exact, n_threads=1) as exact:
        gaps = [parting.gap(exact) for parting in partings]
    shown = [each.shown(gap) for each, gap in zip(partings, gaps, strict=True)]
    print(f"{len(PROMPTS) - len(partings)} of {len(PROMPTS)} texts are the same", *shown, sep="\n")
    return gaps


def against_llama_cpp(files: Files) -> list[float]:
    """Gaps of the partings from llama.cpp's texts."""
    partings = []
    with LlamaServer(files.path) as server, ggq.load(files.path, n_threads=1) as model:
        for number, text in enumerate(PROMPTS):
            count = LONG if number < files.case.long else SHORT
            parting = follow(server, model, number, server.tokenize(text), count)
            partings += [parting] if parting else []
    return gaps_of(partings, files)


@pytest.mark.parametrize("files", SINGLES, indirect=True)
def test_greedy_text_is_llama_cpps(files: Files) -> None:
    assert np.abs([0.0, *against_llama_cpp(files)]).max() < NEAR


@pytest.mark.parametrize("files", QUANTIZED, indirect=True)
def test_rounding_changes_texts_no_more_than_llama_cpps(files: Files) -> None:
    with ggq.load(files.path, n_threads=1, exact=True) as model:
        prompts = [model.tokenize(text) for text in PROMPTS]
        exact = [greedy(model, prompt) for prompt in prompts]
    with ggq.load(files.path, n_threads=1) as model:
        ours = [greedy(model, prompt) for prompt in prompts]
    with LlamaServer(files.path) as server:
        theirs = [server.greedy(prompt, SHORT).tokens for prompt in prompts]
    left = {
        name: [p for p in map(parting_of, range(len(prompts)), prompts, exact, texts) if p]
        for name, texts in (("llama.cpp", theirs), ("ggq", ours))
    }
    for partings in left.values():
        gaps_of(partings, files)
    assert len(left["ggq"]) <= len(left["llama.cpp"]) + MORE_OFTEN
    signs = np.sign(against_llama_cpp(files))
    assert signs.sum() <= MORE_OFTEN, f"exact logits side with llama.cpp: {signs}"


def parting_of(
    number: int, prompt: list[int], exact: list[int], other: list[int]
) -> Parting | None:
    """Where a text leaves the exact one, which may end earlier."""
    for i, (wanted, token) in enumerate(zip(exact, other, strict=False)):
        if wanted != token:
            return Parting(number, prompt + exact[:i], i, wanted, token)
    return None


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
    assert np.abs([0.0, *gaps_of(partings, files)]).max() < NEAR


def greedy(model: Model, prompt: list[int]) -> list[int]:
    """The first SHORT tokens behind a prompt."""
    session = model.session(len(prompt) + SHORT)
    logits, tokens = session.prefill(prompt), []
    while True:
        tokens.append(int(np.argmax(logits)))
        if len(tokens) == SHORT:
            return tokens
        logits = session.decode(tokens[-1])
