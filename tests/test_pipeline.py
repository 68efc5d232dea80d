"""The stream from source to file: pieces, threads, memory, refusals, interruptions."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from math import prod
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggq.blocks import by_name
from ggq.convert.imatrix import Imatrix
from ggq.convert.mixtures.plan import Plan, make_plan
from ggq.convert.mixtures.presets import preset
from ggq.convert.mixtures.recipe import Options
from ggq.convert.sources.gguf_source import open_gguf
from ggq.convert.sources.tensor_source import Source, TensorSource
from ggq.convert.writing import pipeline
from ggq.convert.writing.encoders import Encoder
from ggq.convert.writing.output_metadata import output_metadata
from ggq.convert.writing.pipeline import chunks, convert
from ggq.errors import DiskFullError, OutputBusyError, QuantizeError, UsageError
from ggq.metadata import Metadata
from ggq.shards import Split, shard_name
from ggq.spec import TensorInfo, ValueType
from ggq.writer import Writer
from tests.gguf_file import BF16, F16, F32, Key, absent_tensor, float_tensor, write_gguf
from tests.models import seeded

ROOT = Path(__file__).parents[1]
KEYS = [
    Key("general.architecture", "str", "llama"),
    Key("llama.block_count", "u32", 1),
    Key("llama.attention.head_count", "u32", 1),
]


def plan_of(source: Source, kind: str) -> Plan:
    infos = [tensor.info for tensor in source.tensors]
    return make_plan(source.metadata, infos, preset(kind), Options())


def run(path: Path, out: Path, kind: str = "q8_0", **options: object) -> bytes:
    source = open_gguf(path)
    plan = plan_of(source, kind)
    infos = [tensor.info for tensor in source.tensors]
    metadata = output_metadata(source.metadata, preset(kind), infos)
    convert(source, plan, metadata, out, **options)  # type: ignore[arg-type]
    return out.read_bytes()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A file of 8 tensors, some of three dimensions."""
    shapes = {"token_embd.weight": (96, 256), "output_norm.weight": (256,)}
    shapes |= {f"blk.0.ffn_{part}_exps.weight": (3, 40, 256) for part in ("up", "gate", "down")}
    shapes |= {f"blk.0.attn_{part}.weight": (256, 256) for part in "qkv"}
    specs = [float_tensor(name, seeded(name, shape, 1.0)) for name, shape in shapes.items()]
    return write_gguf(tmp_path / "model.gguf", KEYS, specs)


@pytest.mark.parametrize("kind", ["q8_0", "q4_k", "copy"])
def test_pieces_and_threads_do_not_show(
    kind: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(model, tmp_path / "a.gguf", kind, threads=1)
    for weights, threads in ((256, 2), (1000, 1), (5 * 256, 3)):
        monkeypatch.setattr(pipeline, "CHUNK_WEIGHTS", weights)
        assert run(model, tmp_path / "b.gguf", kind, threads=threads) == whole


class Counted(TensorSource):
    """A tensor of which only the shape counts."""

    def __init__(self, shape: tuple[int, ...], group: int) -> None:
        self.info = TensorInfo("blk.0.ffn_up.weight", shape, by_name("F32"))
        self.group = group


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=3),
    st.integers(1, 3),
    st.booleans(),
)
def test_chunks_cover_every_row_once(dims: list[int], group: int, weighted: bool) -> None:
    shape = (*dims[:-1], dims[-1] * 4)
    if len(shape) > 1:
        shape = (*shape[:-2], shape[-2] * group, shape[-1])
    tensor = Counted(shape, group if len(shape) > 1 else 1)
    source = Source(open_metadata(), [tensor], [])
    plan = plan_of(source, "f32")
    values = np.arange(prod(shape[:-2]) * shape[-1], dtype=np.float32)
    imatrix = Imatrix("x", {tensor.info.name: values}, [], 1) if weighted else None
    columns, matrix_rows = shape[-1], shape[-2] if len(shape) > 1 else 1
    position = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "CHUNK_WEIGHTS", 30)
        for chunk in chunks(plan, {tensor.info.name: tensor}, imatrix, Encoder()):
            assert chunk.start == position < chunk.stop
            assert chunk.start % tensor.group == chunk.stop % tensor.group == 0
            matrix = chunk.start // matrix_rows
            assert (chunk.stop - 1) // matrix_rows == matrix
            assert (chunk.stop - chunk.start) * columns <= max(30, tensor.group * columns)
            if weighted:
                assert chunk.importance is not None
                assert chunk.importance.tolist() == values.reshape(-1, columns)[matrix].tolist()
            position = chunk.stop
    assert position == prod(shape[:-1])


def open_metadata() -> Metadata:
    metadata = Metadata()
    metadata.set("general.architecture", "llama", ValueType.STRING)
    metadata.set("llama.block_count", 1, ValueType.U32)
    return metadata


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("stored", [F32, BF16, F16])
@pytest.mark.parametrize("kind", ["f32", "q8_0", "copy"])
def test_what_cannot_be_stored_is_refused_by_name_and_place(
    bad: float, stored: int, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "CHUNK_WEIGHTS", 5 * 256)
    x = seeded("x", (40, 256), 1.0)
    x[33, 7] = bad
    x[39, 0] = bad
    specs = [float_tensor("blk.0.ffn_up.weight", x, stored)]
    path = write_gguf(tmp_path / "model.gguf", KEYS, specs)
    out = tmp_path / "out.gguf"
    out.write_bytes(b"older")
    with pytest.raises(QuantizeError, match=r"blk\.0\.ffn_up\.weight.*row 33, column 7") as caught:
        run(path, out, kind)
    assert (caught.value.row, caught.value.column) == (33, 7)
    assert sorted(tmp_path.iterdir()) == [path, out]
    assert out.read_bytes() == b"older"


def test_sums_that_overflow_are_no_infinities(tmp_path: Path) -> None:
    x = np.full((2, 256), 3e38, np.float32)
    path = write_gguf(tmp_path / "model.gguf", KEYS, [float_tensor("a.weight", x)])
    assert x.tobytes() in run(path, tmp_path / "out.gguf", "f32")


@pytest.mark.parametrize("link", ["same", "symbolic", "hard", "dotted", "shard"])
def test_source_is_never_the_output(link: str, model: Path, tmp_path: Path) -> None:
    before = model.read_bytes()
    out = tmp_path / "out.gguf"
    options = {}
    if link == "same":
        out = model
    elif link == "symbolic":
        out.symlink_to(model)
    elif link == "hard":
        os.link(model, out)
    elif link == "dotted":
        out = tmp_path / ".." / tmp_path.name / "model.gguf"
    else:
        options = {"split": Split(max_tensors=4)}
        os.link(model, shard_name(out, 1, 2))
    with pytest.raises(UsageError, match="this is the source file"):
        run(model, out, **options)
    assert model.read_bytes() == before


def test_full_disk_is_seen_before_the_first_byte(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"total": 10**9, "free": 100})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(DiskFullError, match="but only 100 are free"):
        run(model, tmp_path / "out.gguf")
    assert sorted(tmp_path.iterdir()) == [model]


def test_two_writers_of_one_output(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    info = TensorInfo("a", (4,), by_name("F32"))
    with Writer(out, open_gguf(model).metadata, [info]) as other:
        with pytest.raises(OutputBusyError):
            run(model, out)
        other.write("a", bytes(16))
    assert out.stat().st_size < model.stat().st_size


# --- in a process of its own -------------------------------------------------------------------

TOOL = "import sys; from ggq.convert.cli import main; sys.exit(main())"


def tool(*arguments: object, limit: int | None = None) -> subprocess.Popen[str]:
    def limited() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    return subprocess.Popen(
        [sys.executable, "-c", TOOL, *map(str, arguments)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=limited,
    )


def sparse_model(path: Path, tensors: int, rows: int) -> Path:
    """A file of F32 zeros that takes no room on the disk."""
    specs = [absent_tensor(f"blk.0.t{n:02d}.weight", (rows, 1024)) for n in range(tensors)]
    write_gguf(path, KEYS, specs)
    size = path.stat().st_size
    os.truncate(path, -(-size // 32) * 32 + sum(spec.nbytes for spec in specs))
    return path


def test_memory_is_bounded_by_chunks(tmp_path: Path) -> None:
    """Half a gigabyte in two tensors, mapped pages counted."""
    path = sparse_model(tmp_path / "big.gguf", 2, 64 << 10)
    code = (
        "import json, resource, sys; from ggq.convert import cli;"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10;"
        "argv = sys.argv[:]; sys.argv = [*argv[:2], argv[3], *argv[4:]]; cli.main();"
        "before = peak(); sys.argv = [argv[0], *argv[2:]]; code = cli.main();"
        "print(json.dumps([code, before, peak()]))"
    )
    small = sparse_model(tmp_path / "small.gguf", 1, 1)
    out = tmp_path / "out.gguf"
    options = ["--type", "q4_0", "--compat", "llama", "--quiet", "--threads", "2"]
    done = subprocess.run(
        [sys.executable, "-c", code, str(small), str(path), str(out), *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    exit_code, before, after = json.loads(done.stdout)
    assert exit_code == 0
    assert out.stat().st_size > 70 << 20
    assert after - before < 120, f"{before} -> {after} MB"


def wait_for_part(folder: Path, process: subprocess.Popen[str]) -> None:
    """Until the output has begun to grow."""
    for _ in range(3000):
        if any(path.stat().st_size > 1 << 16 for path in folder.glob(".*")):
            return
        if process.poll() is not None:
            break
        time.sleep(0.01)
    raise AssertionError(process.communicate())


def test_interrupt_leaves_nothing(tmp_path: Path) -> None:
    path = sparse_model(tmp_path / "big.gguf", 8, 64 << 10)
    out = tmp_path / "out" / "out.gguf"
    out.parent.mkdir()
    process = tool(path, out, "--type", "q8_0", "--quiet", "--threads", 1)
    wait_for_part(out.parent, process)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert stdout == ""
    assert list(out.parent.iterdir()) == []


def test_what_a_killed_run_left_goes_with_the_next(tmp_path: Path, model: Path) -> None:
    path = sparse_model(tmp_path / "big.gguf", 8, 64 << 10)
    out = tmp_path / "out" / "out.gguf"
    out.parent.mkdir()
    process = tool(path, out, "--type", "q8_0", "--quiet", "--threads", 1)
    wait_for_part(out.parent, process)
    process.kill()
    process.communicate()
    assert not out.exists()
    run(model, out)
    assert list(out.parent.iterdir()) == [out]


@pytest.mark.parametrize("limit", [0, 100, 4096, 200_000])
def test_disk_that_fills_up_on_the_way(limit: int, tmp_path: Path, model: Path) -> None:
    out = tmp_path / "out" / "out.gguf"
    out.parent.mkdir()
    process = tool(model, out, "--type", "f32", limit=limit)
    stdout, stderr = process.communicate()
    assert process.returncode == 6, stderr
    assert re.search(r"^ggq-convert: error: .*no space left", stderr, re.MULTILINE)
    assert stdout == ""
    assert list(out.parent.iterdir()) == []
