"""Run a case: warm up, then time it over and over, and count what it read and computed."""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ggq.runtime.bench.cases import Case
from ggq.runtime.bench.roofline import Roofline
from ggq.runtime.model import Model, load
from ggq.runtime.profile import Profile
from ggq.runtime.session import BATCH, Session
from ggq.runtime.work import Work

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Amounts:
    """What a case reads and computes: bytes, operations on bytes and on singles."""

    nbytes: int = 0
    byte_ops: int = 0
    short_ops: int = 0
    single_ops: int = 0

    def __add__(self, other: Amounts) -> Amounts:
        return Amounts(
            self.nbytes + other.nbytes,
            self.byte_ops + other.byte_ops,
            self.short_ops + other.short_ops,
            self.single_ops + other.single_ops,
        )

    @property
    def operations(self) -> int:
        """All operations."""
        return self.byte_ops + self.short_ops + self.single_ops


@dataclass(frozen=True)
class Result:
    """A case with its times in nanoseconds, one per repetition."""

    case: Case
    samples_ns: list[int]
    amounts: Amounts
    limit_seconds: float | None = None  # the least time the machine could take
    read_gbs: float | None = None  # of the machine, while the case ran

    @property
    def samples_ts(self) -> list[float]:
        """Tokens per second of every repetition."""
        tokens = self.case.n_prompt + self.case.n_gen
        return [1e9 * tokens / ns for ns in self.samples_ns]

    @property
    def avg_ns(self) -> float:
        """Mean time."""
        return statistics.fmean(self.samples_ns)

    @property
    def gbs(self) -> float:
        """10^9 bytes of weights and KV cache read per second."""
        return self.amounts.nbytes / self.avg_ns

    @property
    def gops(self) -> float:
        """10^9 multiplications and additions per second."""
        return self.amounts.operations / self.avg_ns

    @property
    def of_limit(self) -> float | None:
        """How near the speed is to the machine's, 0 to 1."""
        return None if self.limit_seconds is None else 1e9 * self.limit_seconds / self.avg_ns


def deviation(samples: list[float]) -> float:
    """Standard deviation as llama-bench computes it: of a sample, 0 of a single value."""
    return statistics.stdev(samples) if len(samples) > 1 else 0.0


class Bench:
    """Runs cases one after another; what the next one needs, too, is kept open."""

    def __init__(self, *, repetitions: int, warm_up: bool, delay: float, tell: Tell) -> None:
        self._repetitions, self._warm_up, self._delay = repetitions, warm_up, delay
        self._tell = tell
        self._model: Model | None = None
        self._session: Session | None = None
        self._opened: tuple[object, ...] = ()

    def model(self, case: Case) -> Model:
        """The model of a case, opened with its threads."""
        wanted = (case.model, case.n_threads, case.exact)
        if self._model is None or self._opened != wanted:
            self.close()
            self._model = load(case.model, n_threads=case.n_threads, exact=case.exact)
            self._opened = wanted
        return self._model

    def run(self, case: Case, roofline: Roofline | None) -> Result:
        """Measure a case, and reading from memory before each repetition."""
        session, ids = self._ready(case)
        prompt, answer = ids[: case.n_prompt], ids[case.n_prompt :]
        if self._warm_up:
            self._tell("warmup run")
            _run(session, prompt, answer[:1], case.step)
        if roofline:
            roofline.start_over()
        samples = []
        for k in range(self._repetitions):
            time.sleep(self._delay)
            self._tell(f"run {k + 1}/{self._repetitions}")
            session.rewind(case.n_depth)
            if roofline:
                roofline.sample()
            start = time.perf_counter_ns()
            _run(session, prompt, answer, case.step)
            samples.append(time.perf_counter_ns() - start)
        each = amounts(session, case)
        if not roofline:
            return Result(case, samples, sum(each, Amounts()))
        roofline.sample()
        least = math.fsum(
            roofline.seconds(a.nbytes, a.byte_ops, a.short_ops, a.single_ops) for a in each
        )
        return Result(case, samples, sum(each, Amounts()), least, roofline.read_gbs)

    def profile(self, case: Case) -> Profile:
        """Where the time of one more run goes."""
        session, ids = self._ready(case)
        with session.profile() as profile:
            _run(session, ids[: case.n_prompt], ids[case.n_prompt :], case.step)
        return profile

    def _ready(self, case: Case) -> tuple[Session, list[int]]:
        """A session that holds the tokens of the case's depth, and the tokens to follow."""
        model = self.model(case)
        ids = np.random.default_rng(0).integers(0, model.hparams.n_vocab, case.n_ctx).tolist()
        session = self._session
        if session is None or session.n_ctx < case.n_ctx:
            session = self._session = model.session(case.n_ctx)
        if session.n_past < case.n_depth:
            self._tell("depth run")
            _prefill(session, ids[session.n_past : case.n_depth], case.step)
        session.rewind(case.n_depth)
        return session, ids[case.n_depth :]

    def close(self) -> None:
        """Close the model."""
        if self._model:
            self._model.close()
        self._model = self._session = None


def _prefill(session: Session, ids: list[int], step: int) -> None:
    for start in range(0, len(ids), step):
        session.prefill(ids[start : start + step])


def _run(session: Session, prompt: list[int], answer: list[int], step: int) -> None:
    _prefill(session, prompt, step)
    for token in answer:
        session.decode(token)


def runs(case: Case) -> Iterator[tuple[int, int]]:
    """(tokens, positions at the end) of every run of compiled code in a case."""
    position = case.n_depth
    left = case.n_prompt
    while left:
        given = min(left, case.step)
        left -= given
        while given:
            tokens = min(given, BATCH)
            given -= tokens
            position += tokens
            yield tokens, position
    for _ in range(case.n_gen):
        position += 1
        yield 1, position


def amounts(session: Session, case: Case) -> list[Amounts]:
    """What every run of a case reads and computes, its depth not counted."""
    work = {tokens: session.work(tokens) for tokens in {n for n, _ in runs(case)}}
    return [_of_run(work[tokens], tokens, end) for tokens, end in runs(case)]


def _of_run(work: list[Work], tokens: int, positions: int) -> Amounts:
    nbytes = sum(each.bytes_read(tokens, positions) for each in work)
    ops = {1: 0, 2: 0, 4: 0}
    for each in work:
        ops[each.number_bytes] += each.operations(tokens, positions)
    return Amounts(nbytes, *ops.values())


@contextlib.contextmanager
def bench(*, repetitions: int, warm_up: bool, delay: float, tell: Tell) -> Iterator[Bench]:
    """A Bench that closes its model at the end."""
    found = Bench(repetitions=repetitions, warm_up=warm_up, delay=delay, tell=tell)
    try:
        yield found
    finally:
        found.close()
