"""A short soak (tests/bench/soak.py): same texts and flat memory, and what it says when not so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ggq.runtime.model import Model
from ggq.runtime.session import Session
from tests.bench.soak import Job, Result, differences, growth, order, soak, work
from tests.models import TINY

LLAMA = replace(TINY["llama"], config=TINY["llama"].config | {"num_hidden_layers": 2})
ALLOWED = 1 << 20


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(LLAMA.write_gguf(tmp_path_factory.mktemp("soak") / "model.gguf"))


def jobs(path: str, prompts: int, threads: list[int]) -> list[Job]:
    return [Job(path, number, n, prompts, 8) for number, n in enumerate(threads)]


def test_many_prompts_in_many_processes_beside_a_busy_one(path: str) -> None:
    results = soak(jobs(path, 48, [1, 2, 3, 4]), hogs=1)
    assert [len(result.texts) for result in results] == [48] * 4
    assert len({text for text, _ in results[0].texts.values()}) > 24
    assert differences(results) == []
    assert [growth(result, ALLOWED) for result in results] == [[]] * 4


def test_the_published_model_in_two_processes(smollm2: Path) -> None:
    results = soak(jobs(str(smollm2), 5, [1, 2]), hogs=0)
    assert differences(results) == []


def test_parts_of_a_soak_are_all_of_it() -> None:
    whole, *parts = (order(Job("", 0, 1, n, 8, first)) for n, first in ((10, 1), (4, 1), (7, 4)))
    assert sorted(whole) == list(range(10))
    assert [part[0] for part in parts] == [0, 0]
    assert sorted(parts[0][1:] + parts[1][1:]) == sorted(whole[1:])


def keep_sessions(job: Job) -> Result:
    """The job of a program that never lets go of a session."""
    open_session, kept = Model.session, []

    def session(*args: Any, **options: Any) -> Session:
        kept.append(open_session(*args, **options))
        return kept[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Model, "session", session)
        return work(job)


def turn_one_bit(job: Job) -> Result:
    """The job of a program of which one of many threads adds in another order, once."""
    prefill = Session.prefill

    def rounded(session: Session, tokens: Any) -> Any:
        logits = prefill(session, tokens)
        if len(tokens) == 5 and job.threads > 1:
            logits[7] = np.nextafter(logits[7], np.float32(0))
        return logits

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "prefill", rounded)
        return work(job)


def test_a_process_that_grows_is_named(path: str) -> None:
    (result,) = soak(jobs(path, 60, [2]), hogs=0, work=keep_sessions)
    faults = growth(result, ALLOWED)
    assert [fault.split(" grows")[0] for fault in faults] == [
        "process 0 with 2 threads: anonymous",
        "process 0 with 2 threads: resident",
    ]


def test_a_text_that_differs_is_named(path: str) -> None:
    (fault,) = differences(soak(jobs(path, 10, [1, 2]), hogs=0, work=turn_one_bit))
    assert fault.startswith("prompt 5: 1 threads say ")
    assert ", process 1 with 2 says " in fault


def test_threads_and_files_that_stay_are_named(path: str) -> None:
    (result,) = soak(jobs(path, 9, [1]), hogs=0)
    more = [replace(u, threads=u.threads + i // 6, files=i) for i, u in enumerate(result.usage)]
    assert len(growth(replace(result, usage=more), 1 << 40)) == 2
