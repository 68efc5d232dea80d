"""What is compared: a file, what is timed on it, the peers, and the ratios wished for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

LLAMA, IK, OPENVINO = "llama.cpp", "ik_llama.cpp", "OpenVINO GenAI"
WHEEL, TRANSFORMERS = "xllamacpp wheel", "transformers"
TYPES = (
    "Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ3_XXS "
    "IQ3_S IQ4_NL IQ4_XS TQ1_0 TQ2_0 Q1_0 Q2_0 MXFP4 NVFP4 F16 BF16 F32"
).split()


@dataclass(frozen=True)
class Case:
    """Tokens per second of a prompt or of an answer, behind `n_depth` tokens."""

    n_prompt: int = 0
    n_gen: int = 0
    n_depth: int = 0

    @property
    def name(self) -> str:
        """As llama-bench writes it."""
        what = f"pp{self.n_prompt}" if self.n_prompt else f"tg{self.n_gen}"
        return what + (f" @ d{self.n_depth}" if self.n_depth else "")


@dataclass(frozen=True)
class Peer:
    """Whom to compare with; `file` where it is not the row's own, `args` more of its flags."""

    engine: str
    file: str = ""
    args: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Engine, file and flags."""
        return " ".join([self.engine, *([f"on {self.file}"] if self.file else []), *self.args])


@dataclass(frozen=True)
class Row:
    """`goals`: ratio wished for, by engine and name of the case.

    A round is the mean of `repetitions` runs behind one to warm up; a single run has none before.
    """

    file: str
    cases: tuple[Case, ...]
    peers: tuple[Peer, ...]
    goals: dict[tuple[str, str], float] = field(default_factory=dict)
    name: str = ""
    repetitions: int = 3

    @property
    def key(self) -> str:
        """The name it is called by."""
        return self.name or self.file


PROMPT, ANSWER = Case(n_prompt=512), Case(n_gen=128)
LONG_PROMPT, DEEP_ANSWER = Case(n_prompt=8000), Case(n_gen=128, n_depth=8000)
IK_BOTH = (Peer(IK), Peer(IK, args=("-rtr", "1")))


def _goals(answer: float, prompt: float, **others: float) -> dict[tuple[str, str], float]:
    goals = {(LLAMA, ANSWER.name): answer, (LLAMA, PROMPT.name): prompt}
    names = {"ik": IK, "openvino": OPENVINO}
    return goals | {(names[key], PROMPT.name): goal for key, goal in others.items()}


def _rows() -> Iterator[Row]:
    both, usual = (ANSWER, PROMPT), (Peer(LLAMA),)
    openvino, wheel = Peer(OPENVINO), Peer(WHEEL)
    yield Row(
        "smollm2-q4_1", both,
        (*usual, Peer(LLAMA, "smollm2-q4_0"), wheel, Peer(WHEEL, "smollm2-q4_0"), openvino,
         *IK_BOTH),
        _goals(2.2, 7.0, ik=1.5, openvino=1.2),
    )  # fmt: skip
    yield Row("smollm2-q4_0", both, (*usual, wheel, openvino, *IK_BOTH), _goals(1.7, 2.7))
    yield Row("smollm2-q8_0", both, (*usual, wheel, openvino), _goals(1.6, 3.0))
    yield Row("gemma-3-270m-q4_k_m", both, (*usual, wheel), _goals(1.6, 3.5))
    yield Row("1b-q4_k_m", both, (*usual, *IK_BOTH), _goals(1.2, 2.8, ik=1.5))
    yield Row("8b-q4_k_m", both, usual, _goals(1.1, 2.5), repetitions=1)
    deep = {(LLAMA, DEEP_ANSWER.name): 1.3, (LLAMA, LONG_PROMPT.name): 2.5}
    for flash, name in (("1", "8k"), ("0", "8k-without-flash")):
        peers = (Peer(LLAMA, args=("-fa", flash)),)
        cases = (DEEP_ANSWER, LONG_PROMPT)
        yield Row("smollm2-q4_0", cases, peers, deep, f"smollm2-q4_0-{name}", repetitions=1)
    for kind in ("f32", "bf16"):
        yield Row(f"smollm2-{kind}", both, (*usual, Peer(TRANSFORMERS, args=(kind,))))
    for family in TYPES:
        is_iq = family.startswith("IQ") and not family.startswith("IQ4")
        peers = (*usual, Peer(IK)) if is_iq else usual
        goals = _goals(1.0, 5.0 if is_iq else 1.5)
        yield Row(f"1b-{family.lower()}", both, peers, goals, repetitions=1)


ROWS = {row.key: row for row in _rows()}
