"""The writer: what it writes is read back by us and by others, and nothing half-done is visible."""

from __future__ import annotations

import errno
import fcntl
import filecmp
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ggq
from ggq import atomic, errors
from ggq.blocks import by_name
from ggq.metadata import Metadata
from ggq.shards import Split
from ggq.spec import TensorInfo, ValueType, padded
from ggq.writer import Writer
from tests import crafted, strategies

F32 = by_name("F32")


def data_of(tensor: TensorInfo) -> bytes:
    """Bytes that tell the tensors apart."""
    return (tensor.name.encode() * (tensor.nbytes + 1))[: tensor.nbytes]


def small_metadata(alignment: int | None = None) -> Metadata:
    metadata = Metadata()
    metadata.set("general.architecture", "llama", ValueType.STRING)
    if alignment is not None:
        metadata.set("general.alignment", alignment, ValueType.U32)
    return metadata


SMALL = [TensorInfo(f"t{i}", (i + 1, 8), F32) for i in range(5)]


def write_small(path: Path, split: Split | None = None, alignment: int | None = None) -> list[Path]:
    with Writer(path, small_metadata(alignment), SMALL, split=split) as writer:
        for tensor in SMALL:
            writer.write(tensor.name, data_of(tensor))
    return writer.paths


def rewrite(source: Path, target: Path) -> None:
    with ggq.open(source) as reader:
        tensors = list(reader.tensors.values())
        with Writer(target, reader.metadata, tensors) as writer:
            for tensor in tensors:
                writer.write(tensor.name, tensor.data)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("model", ["smollm2", "gemma3"])
def test_a_real_file_is_reproduced_byte_for_byte(
    model: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    source = request.getfixturevalue(model)
    rewrite(source, tmp_path / "copy.gguf")
    assert filecmp.cmp(source, tmp_path / "copy.gguf", shallow=False)
    (tmp_path / "copy.gguf").unlink()


def test_a_crafted_file_with_unknown_keys_is_reproduced(tmp_path: Path) -> None:
    pairs = [crafted.pair(b"general.alignment", crafted.U32, crafted.u32(64))]
    pairs += crafted.every_kind()
    infos = [crafted.info(b"a", (3,)), crafted.info(b"b", (5, 2), 0, 64)]
    raw = crafted.gguf(pairs, infos, bytes(range(12)) + bytes(52) + bytes(64), alignment=64)
    (tmp_path / "m.gguf").write_bytes(raw)
    rewrite(tmp_path / "m.gguf", tmp_path / "copy.gguf")
    assert (tmp_path / "copy.gguf").read_bytes() == raw


def test_version_2_is_rewritten_as_3(tmp_path: Path) -> None:
    old = crafted.gguf(crafted.every_kind(), [crafted.info()], bytes(128), version=2)
    (tmp_path / "m.gguf").write_bytes(old)
    rewrite(tmp_path / "m.gguf", tmp_path / "m.gguf")
    new = crafted.gguf(crafted.every_kind(), [crafted.info()], bytes(128), version=3)
    assert (tmp_path / "m.gguf").read_bytes() == new


@settings(max_examples=150)
@given(
    strategies.metadatas(),
    strategies.tensor_infos(),
    st.sampled_from([None, 1, 8, 64]),
    st.sampled_from(
        [None, Split(max_tensors=2), Split(max_bytes=100), Split(no_tensor_first=True)]
    ),
)
def test_reading_inverts_writing(
    tmp_path_factory: pytest.TempPathFactory,
    metadata: Metadata,
    tensors: list[TensorInfo],
    alignment: int | None,
    split: Split | None,
) -> None:
    if alignment is not None:
        metadata.set("general.alignment", alignment, ValueType.U32)
    path = tmp_path_factory.getbasetemp() / "law.gguf"
    with Writer(path, metadata, tensors, split=split) as writer:
        for tensor in tensors:
            data = data_of(tensor)
            writer.write(tensor.name, data[:7])
            writer.write(tensor.name, data[7:])
    with ggq.open(writer.paths[-1]) as reader:
        assert reader.paths == writer.paths
        assert reader.nbytes == writer.nbytes
        for key in ("split.no", "split.count", "split.tensors.count"):
            if len(writer.paths) > 1:
                reader.metadata.pop(key)
        assert reader.metadata == metadata
        assert list(reader.tensors) == [tensor.name for tensor in tensors]
        for tensor in tensors:
            found = reader.tensors[tensor.name]
            assert (found.shape, found.type) == (tensor.shape, tensor.type)
            assert found.data.tobytes() == data_of(tensor)
    for written in writer.paths:
        written.unlink()


def test_the_gguf_package_reads_what_is_written(tmp_path: Path) -> None:
    metadata = Metadata()
    wanted: dict[str, Any] = {}
    for kind in ValueType:
        if kind in (ValueType.ARRAY, ValueType.STRING):
            continue
        wanted[f"scalar.{kind.name}"] = 1 if kind is not ValueType.BOOL else True
        metadata.set(f"scalar.{kind.name}", wanted[f"scalar.{kind.name}"], kind)
        wanted[f"array.{kind.name}"] = [wanted[f"scalar.{kind.name}"]] * 3
        metadata.set(f"array.{kind.name}", wanted[f"array.{kind.name}"], ValueType.ARRAY, kind)
    metadata.set("text", "größe", ValueType.STRING)
    metadata.set("texts", ["a", "", "ß"], ValueType.ARRAY, ValueType.STRING)
    wanted |= {"text": "größe", "texts": ["a", "", "ß"]}
    tensors = [
        TensorInfo("f", (2, 3), F32),
        TensorInfo("q", (4, 256), by_name("Q4_K")),
        TensorInfo("e", (2, 3, 64), by_name("Q8_0")),
    ]
    path = tmp_path / "m.gguf"
    with Writer(path, metadata, tensors) as writer:
        for tensor in tensors:
            writer.write(tensor.name, data_of(tensor))
    oracle = gguf.GGUFReader(path)
    found = {k: f.contents() for k, f in oracle.fields.items() if not k.startswith("GGUF.")}
    assert found == wanted
    assert [tensor.name for tensor in oracle.tensors] == ["f", "q", "e"]
    for info, found_tensor in zip(tensors, oracle.tensors, strict=True):
        assert tuple(found_tensor.shape[::-1]) == info.shape
        assert found_tensor.tensor_type.name == info.type.name
        assert found_tensor.data.tobytes() == data_of(info)


def test_we_read_what_the_gguf_package_writes(tmp_path: Path) -> None:
    oracle = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    oracle.add_custom_alignment(64)
    oracle.add_array("texts", ["a", "ß"])
    oracle.add_array("numbers", [1, -2])
    oracle.add_float64("pi", 3.5)
    x = np.arange(6, dtype=np.float16).reshape(2, 3)
    oracle.add_tensor("x", x)
    oracle.add_tensor("y", np.zeros((2, 34), np.uint8), raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    oracle.write_header_to_file()
    oracle.write_kv_data_to_file()
    oracle.write_tensors_to_file()
    oracle.close()
    with ggq.open(tmp_path / "m.gguf") as reader:
        assert reader.alignment == 64
        assert reader.metadata["texts"] == ["a", "ß"]
        assert reader.metadata["numbers"].tolist() == [1, -2]
        assert reader.metadata["pi"] == 3.5
        assert np.array_equal(reader.tensors["x"].data.view("<f2"), x)
        assert reader.tensors["y"].shape == (2, 32)
    rewrite(tmp_path / "m.gguf", tmp_path / "copy.gguf")
    assert filecmp.cmp(tmp_path / "m.gguf", tmp_path / "copy.gguf", shallow=False)


def test_shards_equal_those_of_the_gguf_package(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for folder in (ours, theirs):
        folder.mkdir()
    oracle = gguf.GGUFWriter(theirs / "m.gguf", "llama", split_max_tensors=2)
    for tensor in SMALL:
        oracle.add_tensor(tensor.name, np.frombuffer(data_of(tensor), "<f4").reshape(tensor.shape))
    oracle.write_header_to_file()
    oracle.write_kv_data_to_file()
    oracle.write_tensors_to_file()
    oracle.close()
    write_small(ours / "m.gguf", Split(max_tensors=2))
    assert names(ours) == names(theirs) == [f"m-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    for name in names(ours):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes()


def test_one_shard_is_a_plain_file(tmp_path: Path) -> None:
    assert write_small(tmp_path / "m.gguf", Split(max_tensors=9)) == [tmp_path / "m.gguf"]
    with ggq.open(tmp_path / "m.gguf") as reader:
        assert list(reader.metadata) == ["general.architecture"]


def test_rewriting_shards_as_one_drops_the_split_keys(tmp_path: Path) -> None:
    shards = write_small(tmp_path / "m.gguf", Split(max_tensors=2), alignment=8)
    write_small(tmp_path / "one.gguf", alignment=8)
    rewrite(shards[0], tmp_path / "copy.gguf")
    assert filecmp.cmp(tmp_path / "one.gguf", tmp_path / "copy.gguf", shallow=False)


def test_split_plans() -> None:
    def plan(split: Split) -> list[str]:
        return ["".join(t.name[1:] for t in shard) for shard in split.plan(SMALL)]

    assert plan(Split()) == ["01234"]
    assert plan(Split(no_tensor_first=True)) == ["", "01234"]
    assert plan(Split(max_tensors=2)) == ["01", "23", "4"]
    assert plan(Split(max_tensors=2, no_tensor_first=True)) == ["", "01", "23", "4"]
    # Sizes are 32, 64, 96, 128 and 160 bytes; the last is too large for any shard.
    assert plan(Split(max_bytes=96)) == ["01", "2", "3", "4"]
    assert plan(Split(max_bytes=1)) == ["0", "1", "2", "3", "4"]
    many = [TensorInfo(f"t{i}", (1,), F32) for i in range(1 << 16)]
    with pytest.raises(errors.UsageError, match="65,536 shards are too many"):
        Split(max_tensors=1).plan(many)
    with pytest.raises(errors.UsageError, match="at least 1, not 0"):
        Split(max_bytes=0)
    with pytest.raises(errors.UsageError, match="at least 1, not -1"):
        Split(max_tensors=-1)


@pytest.mark.parametrize(
    "tensor, error",
    [
        (TensorInfo("", (8,), F32), errors.TensorNameError),
        (TensorInfo("x" * 64, (8,), F32), errors.TensorNameError),
        (TensorInfo("a\0", (8,), F32), errors.TensorNameError),
        (TensorInfo("\ud800", (8,), F32), errors.TensorNameError),
        (TensorInfo("t", (1, 1, 1, 1, 1), F32), errors.TensorShapeError),
        (TensorInfo("t", (-1,), F32), errors.TensorShapeError),
        (TensorInfo("t", (33,), by_name("Q8_0")), errors.TensorShapeError),
        (TensorInfo("t", (1 << 32, 1 << 32), F32), errors.TensorShapeError),
        (TensorInfo("t", (1 << 62,), F32), errors.LimitError),
        (SMALL[0], errors.DuplicateTensorError),
    ],
)
def test_a_tensor_no_file_can_hold_is_refused(
    tensor: TensorInfo, error: type[Exception], tmp_path: Path
) -> None:
    with pytest.raises(error):
        Writer(tmp_path / "m.gguf", small_metadata(), [SMALL[0], tensor])
    assert names(tmp_path) == []


def test_a_bad_alignment_is_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.AlignmentError):
        Writer(tmp_path / "m.gguf", small_metadata(3), SMALL)


@pytest.mark.parametrize(
    "calls, message",
    [
        ([], "'t0' has 32 bytes, but only 0 were written"),
        ([("t0", 31)], "'t0' has 32 bytes, but only 31 were written"),
        ([("t0", 32)], "'t1' has 64 bytes, but only 0"),
        ([("t0", 33)], "'t0' has 32 bytes, but 1 more are written"),
        ([("t1", 1)], "tensor 't1' is written, but 't0' is next"),
        ([("t0", 32), ("t0", 1)], "tensor 't0' is written, but 't1' is next"),
        ([(t.name, t.nbytes) for t in SMALL] + [("t4", 1)], "but no more is next"),
    ],
)
def test_data_that_does_not_fit_is_refused_and_nothing_remains(
    calls: list[tuple[str, int]], message: str, tmp_path: Path
) -> None:
    def write() -> None:
        with Writer(tmp_path / "m.gguf", small_metadata(), SMALL) as writer:
            for name, nbytes in calls:
                writer.write(name, bytes(nbytes))

    with pytest.raises(errors.WriteError, match=message):
        write()
    assert names(tmp_path) == []


def test_arrays_of_any_shape_and_type_are_data(tmp_path: Path) -> None:
    infos = [TensorInfo("a", (2, 3), F32), TensorInfo("z", (0, 4), F32), TensorInfo("b", (2,), F32)]
    with Writer(tmp_path / "m.gguf", small_metadata(), infos) as writer:
        writer.write("a", np.ones((2, 3), np.float32))
        writer.write("z", np.ones((0, 4), np.float32))
        writer.write("b", memoryview(bytearray(8)))
    with ggq.open(tmp_path / "m.gguf") as reader:
        assert np.all(reader.tensors["a"].data.view("<f4") == 1)


def test_a_target_that_cannot_be_is_named(tmp_path: Path) -> None:
    with pytest.raises(errors.NotFoundError, match=r"'.*absent' does not exist"):
        write_small(tmp_path / "absent" / "m.gguf")
    with pytest.raises(errors.UsageError, match="not a regular file"):
        write_small(tmp_path)
    with pytest.raises(errors.UsageError, match="not a regular file"):
        write_small(Path("/dev/null"))


def test_an_older_file_is_replaced_only_when_the_new_one_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"old")

    def give_up() -> None:
        with Writer(path, small_metadata(), SMALL) as writer:
            writer.write("t0", bytes(32))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        give_up()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["m.gguf"]
    write_small(path)
    assert path.read_bytes()[:4] == b"GGUF"


def test_the_debris_of_a_dead_process_is_removed(tmp_path: Path) -> None:
    for name in (".m.gguf.ggq-part", ".m-00001-of-00009.gguf.ggq-part", ".other.gguf.ggq-part"):
        (tmp_path / name).write_bytes(b"debris")
    (tmp_path / "notes.ggq-part").write_bytes(b"no debris: not hidden")
    write_small(tmp_path / "m.gguf")
    assert names(tmp_path) == ["m.gguf", "notes.ggq-part"]


def test_the_part_of_a_live_writer_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic, "_LOCK_ATTEMPTS", 2)
    with Writer(tmp_path / "m.gguf", small_metadata(), SMALL) as writer:
        write_small(tmp_path / "other.gguf")
        with pytest.raises(errors.OutputBusyError, match="another process is writing"):
            write_small(tmp_path / "m.gguf")
        for tensor in SMALL:
            writer.write(tensor.name, data_of(tensor))
    assert names(tmp_path) == ["m.gguf", "other.gguf"]
    assert filecmp.cmp(tmp_path / "m.gguf", tmp_path / "other.gguf", shallow=False)


def test_a_part_removed_while_it_is_claimed_is_claimed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = atomic._lock
    removed: list[Path] = []

    def remove_before_locking(descriptor: int) -> bool:
        part = tmp_path / ".m.gguf.ggq-part"
        if part.exists() and not removed:
            part.unlink()
            removed.append(part)
        return lock(descriptor)

    monkeypatch.setattr(atomic, "_lock", remove_before_locking)
    write_small(tmp_path / "m.gguf")
    assert removed
    assert names(tmp_path) == ["m.gguf"]


def test_a_file_system_without_locks_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    (tmp_path / ".other.gguf.ggq-part").write_bytes(b"perhaps alive")
    write_small(tmp_path / "m.gguf")
    assert names(tmp_path) == [".other.gguf.ggq-part", "m.gguf"]


def test_too_little_space_is_found_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=600))
    monkeypatch.setattr(os, "open", None)
    with pytest.raises(errors.DiskFullError, match="bytes are needed, but only 600 are free"):
        write_small(tmp_path / "m.gguf")
    assert names(tmp_path) == []


FAILING = ["open", "write", "fsync", "replace", "ftruncate"]


def fail_at(
    n: int, make: Callable[[], BaseException], monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """Make the n-th system call of the writer raise; gives the list of calls as they happen."""
    calls: list[str] = []

    def wrap(name: str) -> None:
        original = getattr(os, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            if len(calls) == n:
                raise make()
            return original(*args, **kwargs)

        monkeypatch.setattr(os, name, counted)

    for name in FAILING:
        wrap(name)
    return calls


@pytest.mark.parametrize("split", [None, Split(max_tensors=2)])
@pytest.mark.parametrize(
    "make",
    [KeyboardInterrupt, lambda: OSError(errno.ENOSPC, "full"), lambda: OSError(errno.EIO, "")],
)
def test_whatever_call_fails_nothing_half_done_remains(
    make: Callable[[], BaseException], split: Split | None, tmp_path: Path
) -> None:
    complete = write_small(tmp_path / "m.gguf", split)
    whole = {path.name: path.read_bytes() for path in complete}
    for n in range(1, 200):
        for path in tmp_path.iterdir():
            path.unlink()
        with pytest.MonkeyPatch.context() as patch:
            calls = fail_at(n, make, patch)
            failed: BaseException | None = None
            try:
                write_small(tmp_path / "m.gguf", split)
            except (KeyboardInterrupt, OSError) as error:
                failed = error
        left = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        if failed is None:
            assert left == whole
            break
        if getattr(make(), "errno", None) == errno.ENOSPC and calls[n - 1] == "write":
            assert isinstance(failed, errors.DiskFullError)
        # After the last rename only the folder is left to be synchronized.
        assert left == {} or (left == whole and calls.count("replace") == len(whole))
    else:
        pytest.fail("the writer never finished")


def test_padded() -> None:
    assert [padded(n, 32) for n in (0, 1, 32, 33)] == [0, 32, 32, 64]
