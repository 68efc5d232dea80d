"""Reading, arithmetic and writing of a conversion: side by side; which of them was the limit."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ggq import atomic
from ggq.atomic import PendingFile
from ggq.blocks import BlockType, by_name
from ggq.clock import Clock
from ggq.convert.mixtures.plan import make_plan
from ggq.convert.mixtures.presets import preset
from ggq.convert.mixtures.recipe import Options
from ggq.convert.sources.mapped import MappedFile
from ggq.convert.sources.tensor_source import F32, Source, TensorSource
from ggq.convert.writing import pipeline
from ggq.convert.writing.output_metadata import output_metadata
from ggq.convert.writing.pipeline import convert
from ggq.convert.writing.stages import Load
from ggq.errors import DiskFullError
from ggq.metadata import Metadata
from ggq.spec import TensorInfo, ValueType
from ggq.writer import Writer

PAUSE = 0.01
ROWS = 24


class Slow(TensorSource):
    """Rows that take their time to come from the disk."""

    def __init__(self, reading: float) -> None:
        self.info = TensorInfo("blk.0.ffn_up.weight", (ROWS, 256), by_name("F32"))
        self._reading = reading

    def read(self, start: int, stop: int) -> None:
        time.sleep(self._reading)

    def floats(self, start: int, stop: int) -> F32:
        return np.ones((stop - start, 256), np.float32)


def load(
    monkeypatch: pytest.MonkeyPatch, out: Path, *, reading: float = 0, arithmetic: float = 0,
    writing: float = 0, threads: int = 1,
) -> Load:  # fmt: skip
    """Load of a conversion of ROWS pieces, each of which takes the given seconds."""
    quantize, write = BlockType.quantize, os.write

    def slow_quantize(self: BlockType, *args: object, **options: object) -> object:
        time.sleep(arithmetic)
        return quantize(self, *args, **options)  # type: ignore[arg-type]

    def slow_write(descriptor: int, data: bytes) -> int:
        time.sleep(writing)
        return write(descriptor, data)

    monkeypatch.setattr(pipeline, "CHUNK_WEIGHTS", 256)
    monkeypatch.setattr(BlockType, "quantize", slow_quantize)
    monkeypatch.setattr(os, "write", slow_write)
    metadata = Metadata()
    metadata.set("general.architecture", "llama", ValueType.STRING)
    metadata.set("llama.block_count", 1, ValueType.U32)
    source = Source(metadata, [Slow(reading)], [])
    infos = [tensor.info for tensor in source.tensors]
    plan = make_plan(metadata, infos, preset("q8_0"), Options(pure=True))
    found = output_metadata(metadata, preset("q8_0"), infos)
    return convert(source, plan, found, out, threads=threads).load


@pytest.mark.parametrize("stage", ["reading", "arithmetic", "writing"])
def test_the_slow_stage_is_named(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_name("Q8_0").quantize(np.ones((1, 256), np.float32))  # compiled before it counts
    pauses: Any = {stage: PAUSE}
    found = load(monkeypatch, tmp_path / "out.gguf", **pauses)
    assert found.limit == stage, found
    assert getattr(found, stage) >= ROWS * PAUSE
    assert found.seconds >= getattr(found, stage)
    assert found.sentence().startswith(f"{stage} was the limit, at work ")


def test_the_stages_work_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_name("Q8_0").quantize(np.ones((1, 256), np.float32))
    found = load(
        monkeypatch, tmp_path / "out.gguf", threads=2,
        reading=PAUSE, arithmetic=2 * PAUSE, writing=PAUSE,
    )  # fmt: skip
    assert found.arithmetic >= ROWS * PAUSE
    assert found.seconds < found.reading + found.arithmetic + found.writing


def test_the_sentence_says_who_was_busy_and_what_would_help() -> None:
    assert Load(0.5, 4.8, 0.75, 5, 2).sentence() == (
        "arithmetic (2 threads) was the limit, at work 96 % of 5.0 s, writing 15 %, reading 10 %;"
        " more cores would help"
    )
    assert Load(9, 1, 2, 10, 1).sentence() == (
        "reading was the limit, at work 90 % of 10.0 s, writing 20 %, arithmetic 10 %;"
        " a faster source disk would help"
    )
    assert Load(0, 0, 12, 10, 1).sentence().startswith("writing was the limit, at work 100 % of")


def test_a_clock_counts_threads_and_time() -> None:
    clock, barrier = Clock(), threading.Barrier(3)

    def work() -> None:
        with clock:
            barrier.wait()
            time.sleep(PAUSE)
            barrier.wait()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clock.seconds >= PAUSE
    assert 2.5 * PAUSE <= clock.thread_seconds <= 3 * clock.seconds
    before = clock.seconds
    time.sleep(PAUSE)
    assert clock.seconds == before


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the file at every sync behind the writer, which begin after 1000 bytes."""
    sizes: list[int] = []
    monkeypatch.setattr(atomic, "_SYNC_BYTES", 1000)
    monkeypatch.setattr(
        os, "fdatasync", lambda fd: sizes.append(os.fstat(fd).st_size), raising=False
    )
    return sizes


def test_bytes_go_to_the_disk_behind_the_writer(tmp_path: Path, syncs: list[int]) -> None:
    file = PendingFile(tmp_path / "out")
    for i in range(50):
        file.write(memoryview(bytes([i]) * 100))
        if file._syncing is not None:
            file._syncing.result()
    file.sync()
    file.publish()
    assert (tmp_path / "out").read_bytes() == b"".join(bytes([i]) * 100 for i in range(50))
    assert syncs == [1000, 2000, 3000, 4000, 5000]


@pytest.mark.parametrize("seen_by", ["the next write", "the end"])
def test_a_disk_found_full_behind_the_writer_is_an_error(
    seen_by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, syncs: list[int]
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fdatasync", full)
    out, info = tmp_path / "out", TensorInfo("a", (1000,), by_name("F32"))

    def write() -> None:
        with Writer(out, Metadata(), [info]) as writer:
            writer.write("a", bytes(2000))
            syncing = writer._files[0]._syncing
            assert syncing is not None
            assert syncing.exception()
            if seen_by == "the end":
                monkeypatch.setattr(atomic, "_SYNC_BYTES", 1 << 20)
            writer.write("a", bytes(2000))

    with pytest.raises(DiskFullError, match="no space left"):
        write()
    assert list(tmp_path.iterdir()) == []


def test_reading_covers_any_bytes(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(bytes(10_000))
    file = MappedFile(path)
    for start, nbytes in ((0, 10_000), (4095, 2), (5000, 0), (10_000, 0), (9_999, 1)):
        file.read(start, nbytes)
