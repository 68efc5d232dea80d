"""Weights are brought in ahead: those every token reads, and never after the model is closed."""

from __future__ import annotations

import mmap
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import ggq
from ggq.reader import Reader
from ggq.runtime import prefetch
from ggq.runtime.prefetch import Prefetch

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the advice is Linux's")


class Advice:
    """Stands for libc: notes what is touched."""

    def __init__(self) -> None:
        self.spans: list[tuple[int, int]] = []
        self.answer: Callable[[], int] = lambda: 0

    def __call__(self, at: int, nbytes: int, advice: int) -> int:
        assert advice == prefetch._POPULATE_READ
        assert at % mmap.PAGESIZE == 0
        self.spans.append((at, at + nbytes))
        return self.answer()


@pytest.fixture
def advice(monkeypatch: pytest.MonkeyPatch) -> Advice:
    found = Advice()
    monkeypatch.setattr(prefetch.ctypes, "CDLL", lambda name: type("", (), {"madvise": found}))
    monkeypatch.setattr(prefetch, "_CHUNK_BYTES", 1 << 20)
    return found


@pytest.fixture
def reader(smollm2: Path) -> Iterator[Reader]:
    with ggq.open(smollm2) as found:
        yield found


def finished(reader: Reader) -> Prefetch:
    ahead = Prefetch(reader.tensors.values())
    if ahead._thread.ident:
        ahead._thread.join(60)
    return ahead


def test_every_byte_of_every_matrix_is_touched(advice: Advice, reader: Reader) -> None:
    finished(reader).close()
    for tensor in reader.tensors.values():
        start, end = tensor.address, tensor.address + tensor.nbytes
        reached = start if len(tensor.shape) == 2 else end
        for begin, stop in advice.spans:
            if begin <= reached < stop:
                reached = stop
        assert reached >= end


def test_a_system_that_refuses_is_asked_once(advice: Advice, reader: Reader) -> None:
    advice.answer = lambda: -1
    finished(reader).close()
    assert len(advice.spans) == 1


def test_what_would_fill_the_memory_is_left_alone(
    advice: Advice, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefetch, "_memory", lambda: reader.nbytes)
    finished(reader).close()
    assert advice.spans == []


def test_closing_ends_it(advice: Advice, reader: Reader) -> None:
    def close() -> int:
        ahead._closed = True
        return 0

    ahead = Prefetch([])
    ahead._tensors = list(reader.tensors.values())
    advice.answer = close
    ahead._touch()
    assert len(advice.spans) == 1


def test_the_system_takes_the_advice(reader: Reader) -> None:
    """Nothing is left to touch: no page of a matrix costs a fault afterwards."""
    import resource

    finished(reader).close()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for tensor in reader.tensors.values():
        if len(tensor.shape) == 2:
            tensor.data.reshape(-1)[:: mmap.PAGESIZE].max()
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    assert faults < reader.nbytes // mmap.PAGESIZE // 100
