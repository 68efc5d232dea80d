"""The reader on good files: real ones, small ones, and shards."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

import ggq
from ggq.blocks import by_name
from ggq.errors import (
    DuplicateTensorError,
    FormatError,
    MissingShardError,
    SplitError,
    TensorBoundsError,
)
from ggq.spec import ValueType
from tests import crafted
from tests.crafted import info, pair, string
from tests.gguf_file import float_tensor, write_gguf


def write(path: Path, raw: bytes) -> Path:
    path.write_bytes(raw)
    return path


def oracle_shards(folder: Path, n_tensors: int = 5, per_shard: int = 2) -> list[Path]:
    """m-0000N-of-0000M.gguf with tensors t0, t1, ..., t[i] full of i, from the gguf package."""
    writer = gguf.GGUFWriter(folder / "m.gguf", "llama", split_max_tensors=per_shard)
    writer.add_uint32("llama.block_count", 3)
    for i in range(n_tensors):
        writer.add_tensor(f"t{i}", np.full((2, 32), i, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sorted(folder.glob("m-*.gguf"))


def test_a_real_file_reads_as_the_gguf_package_reads_it(smollm2: Path) -> None:
    oracle = gguf.GGUFReader(smollm2)
    with ggq.open(smollm2) as reader:
        assert list(reader.tensors) == [tensor.name for tensor in oracle.tensors]
        for wanted in oracle.tensors:
            tensor = reader.tensors[wanted.name]
            assert tensor.shape == tuple(wanted.shape[::-1])
            assert tensor.type.name == wanted.tensor_type.name
            assert (tensor.offset_bytes, tensor.nbytes) == (wanted.data_offset, wanted.n_bytes)
            assert np.array_equal(tensor.data.ravel(), wanted.data.view(np.uint8).ravel())
        fields = {k: f for k, f in oracle.fields.items() if not k.startswith("GGUF.")}
        assert list(reader.metadata) == list(fields)
        for key, field in fields.items():
            assert int(reader.metadata.type(key)) == int(field.types[0])
            if len(field.data) < 5000:
                assert np.array_equal(reader.metadata[key], field.contents())
        tokens = reader.metadata["tokenizer.ggml.tokens"]
        wanted_tokens = fields["tokenizer.ggml.tokens"]
        assert len(tokens) == len(wanted_tokens.data)
        for i in range(0, len(tokens), 997):
            assert tokens.raw(i) == bytes(wanted_tokens.parts[wanted_tokens.data[i]])


def test_data_is_a_read_only_view_of_the_map(tmp_path: Path) -> None:
    block = by_name("Q8_0")
    data = bytes(range(34)) * 6 + bytes(20)
    raw = crafted.gguf([], [info(b"w", (64, 3), block.id)], data)
    with ggq.open(write(tmp_path / "m.gguf", raw)) as reader:
        tensor = reader.tensors["w"]
        assert tensor.data.shape == (3, 68)
        assert tensor.data.tobytes() == data[: 34 * 6]
        assert not tensor.data.flags.writeable
        assert tensor.address == tensor.data.ctypes.data == tensor.data[0].ctypes.data
        again = tensor.data
        assert np.shares_memory(again, tensor.data)
        tensor.release()
        assert again.tobytes() == data[: 34 * 6]


def test_an_unmapped_file_no_longer_needs_the_file(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", [], [float_tensor("t", np.ones((2, 4), np.float32))])
    with ggq.Reader(path, mapped=False) as reader:
        path.write_bytes(b"")
        tensor = reader.tensors["t"]
        tensor.release()
        assert (tensor.data.view(np.float32) == 1).all()
        assert not tensor.data.flags.writeable


def test_a_file_can_be_read_into_memory_instead(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", crafted.gguf([], [info()], bytes(range(128))))
    with ggq.open(path, mapped=False) as reader:
        path.write_bytes(b"")
        tensor = reader.tensors["t"]
        assert tensor.data.tobytes() == bytes(range(128))
        assert not tensor.data.flags.writeable
        tensor.release()
    with pytest.raises(FormatError):
        ggq.open(path, mapped=False)


@pytest.mark.parametrize("shape", [(2, 3, 64), (64,), (0, 64)])
def test_dequantize_gives_the_weights(shape: tuple[int, ...], tmp_path: Path) -> None:
    x = np.linspace(-1, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape)
    kind = gguf.GGMLQuantizationType.Q8_0
    rows = gguf.quantize(x, kind)
    infos = [
        info(b"q", shape[::-1], int(kind)),
        info(b"f", shape[::-1], 0, -(-rows.nbytes // 32) * 32),
    ]
    data = rows.tobytes() + bytes(-rows.nbytes % 32) + x.tobytes()
    with ggq.open(write(tmp_path / "m.gguf", crafted.gguf([], infos, data))) as reader:
        assert np.array_equal(reader.tensors["f"].dequantize(), x)
        assert np.array_equal(reader.tensors["q"].dequantize(), gguf.dequantize(rows, kind))


def test_views_outlive_the_reader(tmp_path: Path) -> None:
    texts = crafted.array(crafted.STRING, 2, string(b"ab") + string(b"c"))
    raw = crafted.gguf([pair(b"k", crafted.ARRAY, texts)], [info()], bytes(range(128)))
    with ggq.open(write(tmp_path / "m.gguf", raw)) as reader:
        data, strings = reader.tensors["t"].data, reader.metadata["k"]
    assert data.tobytes() == bytes(range(128))
    assert strings.tolist() == ["ab", "c"]


def test_shapes_of_zero_to_four_dimensions(tmp_path: Path) -> None:
    dims = [(), (4,), (4, 3), (4, 3, 2), (1, 4, 3, 2), (4, 0)]
    counts = [int(np.prod(d)) for d in dims]
    offsets = np.cumsum([0] + [-(-4 * n // 32) * 32 for n in counts]).tolist()
    infos = [info(b"t%d" % i, d, 0, offsets[i]) for i, d in enumerate(dims)]
    raw = crafted.gguf([], infos, bytes(offsets[-1]))
    with ggq.open(write(tmp_path / "m.gguf", raw)) as reader:
        tensors = list(reader.tensors.values())
        assert [t.shape for t in tensors] == [d[::-1] for d in dims]
        assert [t.n_weights for t in tensors] == counts
        assert [t.data.shape for t in tensors] == [
            (4,), (16,), (3, 16), (2, 3, 16), (2, 3, 4, 4), (0, 16)
        ]  # fmt: skip


def test_version_2_is_read(tmp_path: Path) -> None:
    raw = crafted.gguf(crafted.every_kind(), [info()], bytes(128), version=2)
    with ggq.open(write(tmp_path / "m.gguf", raw)) as reader:
        assert reader.version == 2
        assert list(reader.tensors) == ["t"]


def test_header_only_needs_no_data(tmp_path: Path) -> None:
    raw = crafted.gguf([], [info(), info(b"u", (32,), 0, 128)], alignment=1)
    path = write(tmp_path / "m.gguf", raw)
    with ggq.open(path, header_only=True) as reader:
        assert reader.tensors["u"].nbytes == 128
        with pytest.raises(TensorBoundsError, match="header_only"):
            _ = reader.tensors["u"].data


def test_a_failed_open_leaves_no_descriptor(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", b"GGUF")
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        with pytest.raises(FormatError):
            ggq.open(path)
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors


def test_a_missing_file_and_a_folder_are_system_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ggq.open(tmp_path / "absent.gguf")
    with pytest.raises(FormatError, match="not a regular file"):
        ggq.open(tmp_path)
    with pytest.raises(FormatError, match="not a regular file"):
        ggq.open("/dev/zero")


@pytest.mark.parametrize("number", [0, 1, 2])
def test_any_shard_opens_the_whole_model(number: int, tmp_path: Path) -> None:
    shards = oracle_shards(tmp_path)
    with ggq.open(shards[number]) as reader:
        assert reader.paths == shards
        assert reader.nbytes == sum(shard.stat().st_size for shard in shards)
        assert reader.metadata["llama.block_count"] == 3
        assert list(reader.tensors) == [f"t{i}" for i in range(5)]
        for i, tensor in enumerate(reader.tensors.values()):
            assert tensor.path == shards[i // 2]
            assert np.all(tensor.data.view("<f4") == i)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    shards = oracle_shards(tmp_path)
    shards[1].unlink()
    with pytest.raises(MissingShardError, match=r"1 of 3 shards .* m-00002-of-00003\.gguf"):
        ggq.open(shards[0])


def test_a_renamed_shard_says_its_right_name(tmp_path: Path) -> None:
    shards = oracle_shards(tmp_path)
    with pytest.raises(SplitError, match=r"shard 2 of 3.* -00002-of-00003\.gguf"):
        ggq.open(shards[1].rename(tmp_path / "other.gguf"))


def test_a_shard_of_another_model_is_refused(tmp_path: Path) -> None:
    for name, count in (("a", 5), ("b", 4)):
        (tmp_path / name).mkdir()
        oracle_shards(tmp_path / name, count)
    a, b = tmp_path / "a" / "m-00002-of-00003.gguf", tmp_path / "b" / "m-00002-of-00002.gguf"
    b.replace(a)
    with pytest.raises(SplitError, match=r"are \(1, 2\), but \(1, 3\)"):
        ggq.open(tmp_path / "a" / "m-00001-of-00003.gguf")


def test_a_shard_that_repeats_tensors_is_refused(tmp_path: Path) -> None:
    shards = oracle_shards(tmp_path)
    first, second = shards[0].read_bytes(), shards[1].read_bytes()
    shards[1].write_bytes(second.replace(b"t2", b"t0"))
    with pytest.raises(DuplicateTensorError, match=r"'t0' is also in m-00001-of-00003\.gguf"):
        ggq.open(shards[0])
    shards[1].write_bytes(second)
    shards[0].write_bytes(first.replace(b"tensors.count\x05\0\0\0\5", b"tensors.count\x05\0\0\0\6"))
    with pytest.raises(SplitError, match="is 6, but the 3 shards hold 5"):
        ggq.open(shards[0])


def test_one_shard_of_one_is_a_plain_file(tmp_path: Path) -> None:
    pairs = [pair(b"split.count", crafted.U16, b"\x01\0"), pair(b"split.no", crafted.U16, b"\0\0")]
    with ggq.open(write(tmp_path / "m.gguf", crafted.gguf(pairs))) as reader:
        assert reader.metadata.type("split.no") is ValueType.U16
