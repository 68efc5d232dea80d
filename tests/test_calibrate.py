"""Collecting statistics: against sums made one token at a time, killed and resumed, wrong input."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ggq.convert.calibrate import passes, sums
from ggq.convert.calibrate.batch import Watch
from ggq.convert.calibrate.calibration import Calibration
from ggq.convert.calibrate.collect import collect, disk_bytes
from ggq.convert.calibrate.importance import importance, save_imatrix
from ggq.convert.calibrate.sequences import chunks
from ggq.convert.calibrate.statistics import TensorStatistics, proxy
from ggq.convert.imatrix import read_imatrix
from ggq.convert.sources.gguf_source import open_gguf
from ggq.convert.sources.model_dir import open_model_dir
from ggq.convert.sources.tensor_source import Source
from ggq.errors import CalibrationError, DiskFullError, UsageError
from tests.calibrate_models import whole_model
from tests.models import TINY, VOCAB_SIZE

Array = npt.NDArray[Any]
SEQUENCES, POSITIONS = 6, 24


def tokens(seed: int = 0) -> npt.NDArray[np.int32]:
    shape = (SEQUENCES, POSITIONS)
    return np.random.default_rng(seed).integers(0, VOCAB_SIZE, shape).astype(np.int32)


def source(name: str, folder: Path) -> Source:
    return open_gguf(TINY[name].write_gguf(folder / f"{name}.gguf"))


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sequences at a time."""
    monkeypatch.setattr(passes, "BATCH", 2 * POSITIONS)


class Inputs(Watch):
    """Every input, and the expert it goes to."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, int | None], list[tuple[int, Array]]] = {}

    def inputs(self, tensor: str, x: Array, tokens: Any = None, expert: int | None = None) -> None:
        places = range(len(x)) if tokens is None else tokens
        kept = self.found.setdefault((tensor, expert), [])
        kept += [(int(place), row) for place, row in zip(places, x, strict=True)]


def inputs_of(name: str, folder: Path) -> dict[tuple[str, int | None], list[tuple[int, Array]]]:
    """(tensor, expert) -> (position, x f64) of every token, sequences run one by one."""
    model = whole_model(folder / f"{name}.gguf", POSITIONS, np.float64)
    watch = Inputs()
    for sequence in tokens():
        model.logits(list(sequence), watch)
    return watch.found


def mean_gram(rows: list[Array], per_batch: int) -> Array:
    """Mean of x x^T, long rows shortened to 16 times the median squared norm of their batch."""
    total = 0
    for start in range(0, len(rows), per_batch):
        batch = np.array(rows[start : start + per_batch])
        norms = (batch**2).sum(axis=1)
        limit = 16 * np.median(norms)
        for x, norm in zip(batch, norms, strict=True):
            total = total + np.outer(x, x) * min(1.0, limit / norm)
    return total / len(rows)


@pytest.mark.parametrize(("name", "panel"), [("qwen2", 2048), ("gemma3", 40)])
def test_moments_are_those_of_single_tokens(
    name: str, panel: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sums, "_PANEL", panel)
    calibration = collect(source(name, tmp_path), tokens(), tmp_path / "work", gradients=False)
    assert calibration.tokens == SEQUENCES * POSITIONS
    found = inputs_of(name, tmp_path)
    assert {site for site, _ in found} == {calibration.site(n) for n in calibration.names}
    for tensor in calibration.names:
        made = calibration.of(tensor)
        rows = found[calibration.site(tensor), None]
        everything = np.array([x for _, x in rows])
        np.testing.assert_allclose(made.square, (everything**2).mean(axis=0), rtol=1e-4)
        scale = np.abs(everything).max()
        np.testing.assert_allclose(made.mean, everything.mean(axis=0), atol=1e-5 * scale)
        later = [x for at, x in rows if at > 0]
        gram = mean_gram(later, 2 * (POSITIONS - 1))
        assert np.abs(made.gram - gram).max() < 1e-5 * np.abs(gram).max()
        assert np.array_equal(made.gram, made.gram.T)
        first = np.array([x for at, x in rows if at == 0])
        first = first.T @ first / len(later)
        first *= min(1.0, 4 * np.trace(gram) / np.trace(first))
        assert np.abs(made.first - first).max() < 1e-5 * np.abs(first).max()
        assert made.count == SEQUENCES * POSITIONS
        assert made.guided is None
        assert made.guided_hessian is None


def test_first_positions_are_limited_to_four_times_the_trace(tmp_path: Path) -> None:
    path = TINY["qwen3"].write_gguf(tmp_path / "qwen3.gguf")
    calibration = collect(open_gguf(path), tokens()[:, :2], tmp_path / "work", gradients=False)
    # Half the positions are first ones; one in 24 elsewhere.
    for name in calibration.names:
        made = calibration.of(name)
        assert np.trace(made.first) < 4.001 * np.trace(made.gram)


def test_experts_are_drawn_to_their_mean(tmp_path: Path) -> None:
    calibration = collect(
        source("qwen3moe", tmp_path), tokens(), tmp_path / "work", gradients=False
    )
    found = inputs_of("qwen3moe", tmp_path)
    tensor = "blk.1.ffn_up_exps.weight"
    site = calibration.site(tensor)
    assert site == "blk.1.ffn_gate_exps.weight"
    assert calibration.experts(tensor) == 12
    own = [[x for at, x in found.get((site, e), []) if at > 0] for e in range(12)]
    largest = max(np.abs(x).max() for rows in own for x in rows)
    mean = sum(np.outer(x, x) for rows in own for x in rows) / sum(map(len, own))
    for expert, rows in enumerate(own):
        made = calibration.of(tensor, expert)
        total = sum((np.outer(x, x) for x in rows), np.zeros_like(mean)) + 0.25 * 64 * mean
        expected = total / (len(rows) + 0.25 * 64)
        # Batches of an expert are small; what their cap takes away is little.
        assert np.abs(made.gram - expected).max() < 0.02 * largest**2
    with pytest.raises(CalibrationError, match="wanted is one of 12 experts, not None"):
        calibration.of(tensor)
    with pytest.raises(CalibrationError, match="wanted is no expert, not 3"):
        calibration.of("blk.1.attn_q.weight", 3)


def test_gradients_predict_the_divergence_of_a_changed_output_matrix(tmp_path: Path) -> None:
    everything = SEQUENCES * POSITIONS
    texts = np.concatenate([tokens(seed) for seed in range(20)])
    calibration = collect(
        source("qwen3", tmp_path), texts, tmp_path / "work", sample_tokens=20 * everything
    )
    made = calibration.of("output.weight")
    change = 0.003 * np.random.default_rng(0).standard_normal((VOCAB_SIZE, 64))
    model = whole_model(tmp_path / "qwen3.gguf", POSITIONS, np.float64)
    found = []
    for sequence in texts:
        model.changes = {}
        before = log_softmax(model.logits(list(sequence)))
        model.changes = {"output.weight": change}
        after = log_softmax(model.logits(list(sequence)))
        found.append((np.exp(before) * (before - after)).sum(axis=1)[1:])
    measured = float(np.mean(found))
    assert made.fisher_cost(change.astype(np.float32)) == pytest.approx(measured, rel=0.15)


def log_softmax(logits: Array) -> Array:
    shifted = logits - logits.max(axis=1, keepdims=True)
    result: Array = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def test_guided_moments_weigh_tokens_by_their_gradients(tmp_path: Path) -> None:
    calibration = collect(source("llama3", tmp_path), tokens(), tmp_path / "work")
    for name in calibration.names:
        made = calibration.of(name)
        assert made.inputs is not None
        assert made.gradients is not None
        assert made.guided is not None
        weights = (made.gradients.astype(np.float64) ** 2).mean(axis=1)
        # The samples are all later tokens, in order; two sequences are a batch.
        caps = 16 * weights.reshape(3, -1).mean(axis=1)
        weights = np.minimum(weights, np.repeat(caps, 2 * (POSITIONS - 1)))
        expected = (made.inputs.T * weights) @ made.inputs / len(weights)
        assert np.abs(made.guided - expected).max() < 1e-5 * np.abs(expected).max()
        plain = calibration.of(name, guided=False, samples=False)
        assert (plain.guided, plain.inputs, plain.gradients) == (None, None, None)
        with pytest.raises(ValueError, match="without gradients"):
            plain.fisher_cost(np.zeros((1, made.columns), np.float32))


def test_second_moments_of_gradients_weigh_tokens_by_their_inputs(tmp_path: Path) -> None:
    calibration = collect(source("llama3", tmp_path), tokens(), tmp_path / "work")
    for name in calibration.names:
        made = calibration.of(name)
        assert made.inputs is not None
        assert made.gradients is not None
        if name in ("output.weight", "token_embd.weight"):
            assert made.outputs == ()
            continue
        total = 0.0
        # The samples are all later tokens, in order; two sequences are a batch.
        for x, g in zip(np.split(made.inputs, 3), np.split(made.gradients, 3), strict=True):
            norms, lengths = ((each.astype(np.float64) ** 2).mean(axis=1) for each in (x, g))
            norms = np.minimum(norms / norms.mean(), 16)
            shares = np.minimum(1, 16 * lengths.mean() / lengths)
            total += (g.T * norms * shares) @ g
        (block,) = made.outputs
        expected = total / len(made.gradients)
        assert np.abs(block - expected).max() < 1e-5 * np.abs(expected).max()
        assert calibration.of(name, guided=False).outputs == ()


def test_outputs_of_many_rows_are_kept_in_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = collect(source("llama3", tmp_path), tokens(), tmp_path / "whole")
    monkeypatch.setattr(sums, "OUTPUT_ROWS", 48)
    split = collect(source("llama3", tmp_path), tokens(), tmp_path / "split")
    name = "blk.0.ffn_gate.weight"
    (block,) = whole.of(name).outputs
    parts = split.of(name).outputs
    assert len(parts) == -(-len(block) // 48)
    for number, part in enumerate(parts):
        rows = slice(48 * number, 48 * number + 48)
        np.testing.assert_array_equal(part, block[rows, rows])


def test_gradients_at_the_rows_of_a_tied_table(tmp_path: Path) -> None:
    calibration = collect(source("gemma3", tmp_path), tokens(), tmp_path / "work")
    made = calibration.of("token_embd.weight")
    model = whole_model(tmp_path / "gemma3.gguf", POSITIONS, np.float64)
    later = []
    for first in range(0, SEQUENCES, 2):
        batch = model.batch(tokens()[first])
        batch.tokens = tokens()[first : first + 2]
        batch.random = np.random.default_rng([passes.SEED, first * POSITIONS])
        model.forward(batch)
        gradient = None
        for section in reversed(model.program.sections[1:]):
            gradient = section.backward(batch, gradient)
        assert gradient is not None
        later.append(gradient.reshape(2, POSITIONS, -1)[:, 1:].reshape(-1, made.columns))
    expected = 8 * np.concatenate(later)  # Gemma multiplies rows by the root of their 64 columns
    assert made.embedded is not None
    assert made.embedded_gradients is not None
    np.testing.assert_array_equal(made.embedded, tokens()[:, 1:].reshape(-1))
    assert np.abs(made.embedded_gradients - expected).max() < 1e-4 * np.abs(expected).max()


class KilledError(Exception):
    pass


@pytest.mark.parametrize("after", [1, 4, 8])
def test_a_killed_run_continues(after: int, tmp_path: Path) -> None:
    model = source("llama3", tmp_path)
    whole = collect(model, tokens(), tmp_path / "whole")
    done = []

    def kill(share: float) -> None:
        done.append(share)
        if len(done) > after:
            raise KilledError

    with pytest.raises(KilledError):
        collect(model, tokens(), tmp_path / "work", progress=kill)
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "work").glob("*.npz")}
    with pytest.raises(CalibrationError, match="not complete"):
        Calibration(tmp_path / "work")
    continued = collect(model, tokens(), tmp_path / "work")
    assert continued.hash == whole.hash
    assert {p.name for p in continued.folder.iterdir()} == {p.name for p in whole.folder.iterdir()}
    for name, when in before.items():
        assert (continued.folder / name).stat().st_mtime_ns == when
    for name in whole.names:
        expected, found = vars(whole.of(name)), vars(continued.of(name))
        for field, values in expected.items():
            assert np.array_equal(values, found[field])


def test_another_text_begins_anew(tmp_path: Path) -> None:
    model = source("llama", tmp_path)
    one = collect(model, tokens(), tmp_path / "work", gradients=False)
    mean = one.of("blk.0.ffn_down.weight").mean
    other = collect(model, tokens(1), tmp_path / "work", gradients=False)
    assert one.hash != other.hash
    assert not np.array_equal(mean, other.of("blk.0.ffn_down.weight").mean)


def test_a_model_directory_gives_what_its_file_gives(tmp_path: Path) -> None:
    file = collect(source("llama", tmp_path), tokens(), tmp_path / "file")
    folder = open_model_dir(TINY["llama"].write_hf(tmp_path / "model"))
    made = collect(folder, tokens(), tmp_path / "work")
    for name in file.names:
        expected, found = vars(file.of(name)), vars(made.of(name))
        for field, values in expected.items():
            assert np.array_equal(values, found[field])


def test_the_disk_is_big_enough_or_it_is_said_beforehand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = source("llama", tmp_path)
    made = collect(model, tokens(), tmp_path / "work", sample_tokens=50)
    used = sum(file.stat().st_size for file in made.folder.glob("*.npz"))
    headers = 300 * sum(len(np.load(file).files) for file in made.folder.glob("*.npz"))
    assert used < disk_bytes(made.index, 64, 50) + headers
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=10**9, free=10**4))
    with pytest.raises(DiskFullError, match="bytes are needed, but only 10,000 are free"):
        collect(model, tokens(1), tmp_path / "other")


def test_progress_ends_at_one(tmp_path: Path) -> None:
    shares: list[float] = []
    collect(source("llama", tmp_path), tokens(), tmp_path / "work", progress=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)


@pytest.mark.parametrize("suffix", [".gguf", ".dat"])
@pytest.mark.parametrize("name", ["qwen3moe", "llama3"])
def test_the_importance_matrix_reads_back(name: str, suffix: str, tmp_path: Path) -> None:
    model = source(name, tmp_path)
    calibration = collect(model, tokens(), tmp_path / "work", gradients=False)
    path = tmp_path / f"imatrix{suffix}"
    save_imatrix(calibration, path, datasets=["text.txt"], process_output=True)
    read = read_imatrix(path)
    assert (read.datasets, read.chunk_count) == (["text.txt"], SEQUENCES)
    assert set(read.values) == set(calibration.names)
    for tensor in model.tensors:
        if tensor.info.name in read.values:
            means, counts = calibration.squares(tensor.info.name)
            expected = np.where(counts[:, None] > 0, means, 1)
            found = read.importance(tensor.info)
            np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert "output.weight" not in importance(calibration)


def test_proxy_is_the_mean_square_of_outputs() -> None:
    random = np.random.default_rng(0)
    x, error = (random.standard_normal(shape).astype(np.float32) for shape in ((50, 8), (3, 8)))
    expected = ((x @ error.T) ** 2).sum(axis=1).mean()
    assert proxy(error, x.T @ x / 50) == pytest.approx(expected, rel=1e-5)


def test_hessians_are_sums() -> None:
    random = np.random.default_rng(0)
    gram, first = np.eye(3, dtype=np.float32), random.standard_normal((2, 3)).astype(np.float32)
    zero = np.zeros(3, np.float32)
    made = TensorStatistics(3, 1, zero, zero, gram, first, 2 * gram, 3 * first)
    np.testing.assert_allclose(made.hessian, gram + first.T @ first, rtol=1e-6)
    np.testing.assert_allclose(made.guided_hessian, 2 * gram + 9 * first.T @ first, rtol=1e-6)


def test_chunks_are_spread_and_begin_as_the_model_wants() -> None:
    ids = list(range(107))
    assert chunks(ids, 10, None).tolist() == np.arange(100).reshape(10, 10).tolist()
    assert chunks(ids, 10, None, 3)[:, 0].tolist() == [0, 30, 60]
    assert chunks(ids, 10, 999, 2)[:, :2].tolist() == [[999, 1], [999, 51]]
    with pytest.raises(UsageError, match="has 9 tokens, but one sequence needs 10"):
        chunks(ids[:9], 10, None)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.zeros((0, 8), np.int32), "with 2 positions or more, not \\[0, 8\\]"),
        (np.zeros((3, 1), np.int32), "with 2 positions or more, not \\[3, 1\\]"),
        (np.full((1, 8), VOCAB_SIZE, np.int32), "the model knows 0 to 287"),
        (np.full((1, 8), -1, np.int32), "are -1 to -1"),
    ],
)
def test_tokens_that_cannot_be(wrong: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        collect(source("llama", tmp_path), wrong, tmp_path / "work")


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"there is no calibration\.json of format 2"):
        Calibration(tmp_path)
    (tmp_path / "calibration.json").write_text("{}")
    with pytest.raises(CalibrationError, match="no calibration folder"):
        Calibration(tmp_path)


def test_a_folder_that_lost_a_file(tmp_path: Path) -> None:
    made = collect(source("llama", tmp_path), tokens(), tmp_path / "work", gradients=False)
    copy = shutil.copytree(made.folder, tmp_path / "copy")
    (copy / "inputs-002.npz").unlink()
    with pytest.raises(CalibrationError, match=r"inputs-002\.npz is missing; run it again"):
        Calibration(copy)
    with pytest.raises(CalibrationError, match=r"no statistics of a matrix blk\.9\.attn_q"):
        made.of("blk.9.attn_q.weight")
