"""Every structural fault is a named error, and a hostile file costs next to nothing.

The first table follows the hand-made cases of llama.cpp tests/test-gguf.cpp by name.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings

import ggq
from ggq import errors
from ggq.blocks import all_types
from ggq.reader import Reader
from ggq.spec import padded
from ggq.writer import Writer
from tests import crafted, strategies
from tests.crafted import F32, I32, STRING, U8, U32, array, gguf, info, pair, string, u32, u64

KEY = b"general.alignment"
TYPES = all_types()


def infos_of_every_type(alignment: int = 32) -> tuple[list[bytes], int]:
    """A tensor of each type, 3 blocks wide and 2 rows high, and where their data ends."""
    infos, offset = [], 0
    for block in TYPES:
        infos.append(info(block.name.encode(), (3 * block.weights, 2), block.id, offset))
        offset += padded(6 * block.nbytes, alignment)
    return infos, offset


def with_data(alignment: int = 32, short: int = 0, declared: int | None = None) -> bytes:
    infos, nbytes = infos_of_every_type(alignment)
    pairs = crafted.every_kind() + ([] if declared is None else [aligned(declared)])
    return gguf(pairs, infos, bytes(nbytes - short), alignment=alignment)


def aligned(alignment: int, kind: int = U32) -> bytes:
    return pair(KEY, kind, u32(alignment))


KINDS = crafted.every_kind()
I8, I64 = 24, 27  # ggml's numbers of the tensor types
G = 1 << 30
HUGE = 0x7FFFFFFFFFFFFFC0

LLAMA_CPP_BAD = {
    "header_bad_magic": (gguf(magic=b"FUGG"), errors.MagicError),
    "header_bad_version_0": (gguf(version=0), errors.VersionError),
    "header_bad_version_1": (gguf(version=1), errors.VersionError),
    "header_bad_version_future": (gguf(version=4), errors.VersionError),
    "header_bad_n_tensors": (gguf(n_tensors=-1), errors.LimitError),
    "header_bad_n_kv": (gguf(n_pairs=-1), errors.LimitError),
    "kv_bad_key_size": (gguf([string(b"k", -1) + u32(U8) + b"\1"]), errors.LimitError),
    "kv_empty_key": (gguf([pair(b"", U8, b"\1")]), errors.MetadataKeyError),
    "kv_bad_type": (gguf([pair(b"k", 13, b"\1")]), errors.MetadataTypeError),
    "kv_duplicate_key": (gguf([pair(b"k", U8, b"\1")] * 2), errors.DuplicateKeyError),
    "kv_bad_align": (gguf([*KINDS, aligned(13)]), errors.AlignmentError),
    "kv_wrong_type_align": (gguf([*KINDS, aligned(32, I32)]), errors.MetadataTypeError),
    "tensors_bad_name_size": (gguf(KINDS, [info(b"x" * 64)]), errors.TensorNameError),
    "tensors_bad_n_dims": (gguf(KINDS, [info(n_dims=5)]), errors.TensorShapeError),
    "tensors_bad_shape": (gguf(KINDS, [info(dims=(-1,))]), errors.TensorShapeError),
    "tensors_ne_too_big": (gguf([], [info(dims=[4 * (2**31 - 1)] * 2)]), errors.TensorShapeError),
    "tensors_nbytes_too_big": (gguf([], [info(b"t", [1_540_000_000] * 2, I64)]), errors.LimitError),
    "tensors_nbytes_pad_wrap": (gguf([], [info(dims=(4, G - 1, G + 1))]), errors.LimitError),
    "tensors_bad_type": (gguf(KINDS, [info(kind=43)]), errors.TensorTypeError),
    "tensors_bad_offset": (gguf(KINDS, [info(offset=-1)]), errors.TensorBoundsError),
    "tensors_duplicate_name": (
        gguf(KINDS, [info(), info(offset=128)], bytes(256)),
        errors.DuplicateTensorError,
    ),
    "tensors_bad_align": (
        gguf([aligned(13)], infos_of_every_type(13)[0], alignment=13),
        errors.AlignmentError,
    ),
    "tensors_inconsistent_align": (
        gguf(KINDS, infos_of_every_type(1)[0]),
        errors.TensorBoundsError,
    ),
    "data_not_enough_data": (with_data(short=1), errors.TruncatedError),
    "data_bad_align": (with_data(13, declared=13), errors.AlignmentError),
    "data_inconsistent_align": (with_data(1), errors.TensorBoundsError),
    "data_mem_size_overflow": (
        gguf([], [info(b"a", (HUGE,), I8), info(b"b", (HUGE,), I8, HUGE)], bytes(32)),
        errors.TruncatedError,
    ),
}  # fmt: skip

LLAMA_CPP_GOOD = {
    "header_empty": (gguf(), False),
    "kv_success": (gguf(KINDS), False),
    "tensors_zero_dim": (gguf(KINDS, [info(dims=(32, 0)), info(b"u", (0, 5))]), True),
    "tensors_success": (gguf(KINDS, infos_of_every_type()[0]), True),
    "tensors_custom_align": (gguf([aligned(1)], infos_of_every_type(1)[0], alignment=1), True),
    "data_success": (with_data(), False),
    "data_custom_align": (with_data(1, declared=1), False),
}

OTHER_BAD = {
    "empty_file": (b"", errors.TruncatedError),
    "big_endian": (gguf(version=0x03000000), errors.ByteOrderError),
    "alignment_0": (gguf([aligned(0)]), errors.AlignmentError),
    "alignment_3": (gguf([aligned(3)]), errors.AlignmentError),
    "alignment_2_31": (gguf([aligned(1 << 31)]), errors.AlignmentError),
    "n_tensors_2_63": (gguf(n_tensors=1 << 63), errors.LimitError),
    "n_kv_2_63": (gguf(n_pairs=1 << 63), errors.LimitError),
    "n_dims_million": (gguf([], [info(n_dims=1_000_000)]), errors.TensorShapeError),
    "value_size": (gguf([pair(b"k", STRING, string(b"v", 1 << 63))]), errors.LimitError),
    "string_beyond_file": (gguf([pair(b"k", STRING, string(b"v", 99))]), errors.LimitError),
    "array_2_63": (gguf([pair(b"k", 9, array(U8, 1 << 63, b""))]), errors.LimitError),
    "strings_2_63": (gguf([pair(b"k", 9, array(STRING, 1 << 63, b""))]), errors.LimitError),
    "string_in_array_2_63": (
        gguf([pair(b"k", 9, array(STRING, 2, string(b"a") + string(b"b", 1 << 63)))]),
        errors.TruncatedError,
    ),
    "nested_array": (
        gguf([pair(b"k", 9, array(9, 1, array(U8, 1, b"\1")))]),
        errors.MetadataTypeError,
    ),
    "array_bad_item_type": (gguf([pair(b"k", 9, array(13, 1, b"\1"))]), errors.MetadataTypeError),
    "key_not_utf8": (gguf([pair(b"k\xff", U8, b"\1")]), errors.MetadataKeyError),
    "tensor_name_empty": (gguf([], [info(b"")], bytes(128)), errors.TensorNameError),
    "tensor_name_not_utf8": (gguf([], [info(b"\xc3")], bytes(128)), errors.TensorNameError),
    "tensor_name_with_nul": (gguf([], [info(b"a\0b")], bytes(128)), errors.TensorNameError),
    "product_wraps_to_4": (
        gguf([], [info(dims=(4194305, 4194305, 211106198978564))]),
        errors.TensorShapeError,
    ),
    "zero_hides_overflow": (gguf([], [info(dims=(2**62, 2**62, 0))]), errors.TensorShapeError),
    "row_not_whole_blocks": (gguf([], [info(dims=(33,), kind=8)]), errors.TensorShapeError),
    "removed_type": (gguf([], [info(kind=4)]), errors.TensorTypeError),
    "gap": (
        gguf([], [info(), info(b"u", (32,), 0, 160)], bytes(512)),
        errors.TensorBoundsError,
    ),
    "reordered": (
        gguf([], [info(offset=128), info(b"u", (32,), 0, 0)], bytes(256)),
        errors.TensorBoundsError,
    ),
    "first_not_at_0": (gguf([], [info(offset=32)], bytes(512)), errors.TensorBoundsError),
    "offset_beyond_file": (gguf([], [info(offset=1 << 40)], bytes(128)), errors.TensorBoundsError),
    "split_count_text": (
        gguf([pair(b"split.count", STRING, string(b"2"))]),
        errors.MetadataTypeError,
    ),
    "split_without_number": (gguf([pair(b"split.count", U32, u32(2))]), errors.MissingKeyError),
    "split_name": (
        gguf([pair(b"split.count", U32, u32(2)), pair(b"split.no", U32, u32(0))]),
        errors.SplitError,
    ),
}  # fmt: skip

BAD = LLAMA_CPP_BAD | OTHER_BAD


@pytest.mark.parametrize("case", BAD)
def test_a_fault_has_its_name_and_place(case: str, tmp_path: Path) -> None:
    raw, wanted = BAD[case]
    path = tmp_path / "bad.gguf"
    path.write_bytes(raw)
    with pytest.raises(errors.FormatError) as caught:
        ggq.open(path)
    assert type(caught.value) is wanted
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_the_table_is_the_one_of_llama_cpp() -> None:
    assert (len(LLAMA_CPP_BAD), len(LLAMA_CPP_GOOD)) == (27, 7)


@pytest.mark.parametrize("case", LLAMA_CPP_GOOD)
def test_a_good_file_loads(case: str, tmp_path: Path) -> None:
    raw, header_only = LLAMA_CPP_GOOD[case]
    path = tmp_path / "good.gguf"
    path.write_bytes(raw)
    with ggq.open(path, header_only=header_only) as reader:
        check_invariants(reader, path)


def test_any_overlap_of_two_tensors_is_refused(tmp_path: Path) -> None:
    n = 20
    path = tmp_path / "bad.gguf"
    for i in range(n):
        for j in range(n):
            if i == j:
                continue
            infos = [info(b"t%d" % k, (32,), 0, 128 * (j if k == i else k)) for k in range(n)]
            path.write_bytes(gguf([], infos, bytes(128 * n)))
            with pytest.raises(errors.TensorBoundsError):
                ggq.open(path)


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    infos, nbytes = infos_of_every_type()
    header = gguf(KINDS, infos)
    wholes = [header + bytes(nbytes), gguf(KINDS, alignment=1), gguf([], [info()], bytes(128))]
    for raw in wholes:
        path.write_bytes(raw)
        ggq.open(path).close()
        for length in reversed(range(min(len(raw), len(header)))):
            os.truncate(path, length)
            with pytest.raises(errors.FormatError) as caught:
                ggq.open(path)
            assert isinstance(caught.value, errors.TruncatedError | errors.LimitError)


def test_a_real_file_cut_anywhere_is_refused(smollm2: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    shutil.copyfile(smollm2, path)
    size = path.stat().st_size
    random_places = random.Random(1)
    places = {random_places.randrange(size) for _ in range(400)}
    places |= {random_places.randrange(1_800_000) for _ in range(100)}
    for length in sorted(places, reverse=True):
        os.truncate(path, length)
        with pytest.raises(errors.FormatError) as caught:
            ggq.open(path)
        assert isinstance(caught.value, errors.TruncatedError | errors.LimitError)


HOSTILE_PROBE = """
import json, resource, sys, time
from ggq.errors import FormatError
from ggq.reader import Reader

def refused(path):
    try:
        Reader(path).close()
    except FormatError:
        return True
    return False

assert refused(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
seconds = {}
for path in sys.argv[2:]:
    start = time.perf_counter()
    assert refused(path), path
    seconds[path] = time.perf_counter() - start
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
json.dump({"growth_kib": after - before, "seconds": seconds}, sys.stdout)
"""


def test_hostile_files_cost_no_memory(tmp_path: Path) -> None:
    paths = []
    for case, (raw, _) in BAD.items():
        paths.append(tmp_path / f"{case}.gguf")
        paths[-1].write_bytes(raw)
    command = [sys.executable, "-c", HOSTILE_PROBE, str(paths[0]), *map(str, paths)]
    # The time limit only catches a hang: all files together take milliseconds.
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout)["growth_kib"] < 64 * 1024


def check_invariants(reader: Reader, path: Path) -> None:
    """What holds for every file that opens."""
    end = 0
    for name, tensor in reader.tensors.items():
        assert tensor.name == name
        assert tensor.offset_bytes >= end
        end = tensor.offset_bytes + tensor.nbytes
        if tensor._view is not None:
            assert end <= path.stat().st_size
            assert tensor.data.nbytes == tensor.nbytes
    raw = path.read_bytes()
    for key, value in reader.metadata.items():
        assert key.encode() in raw
        assert reader.metadata.type(key).name
        str(value)
        if hasattr(value, "tolist"):
            assert len(value.tolist()) == len(value)


SMALL = gguf(
    [
        aligned(32),
        pair(b"split.count", U8, b"\1"),
        pair(b"strings", 9, array(STRING, 3, string(b"") + string(b"ab") + string(b"\xff"))),
        pair(b"floats", 9, array(F32, 4, bytes(range(16)))),
        pair(b"flags", 9, array(7, 3, b"\0\1\2")),
        pair(b"name", STRING, string("größe".encode())),
    ],
    [
        info(b"q", (64, 2), 8, 0),
        info(b"f", (3, 2, 1), 0, 160),
        info(b"z", (32, 0), 2, 192),
        info(b"scalar", (), 24, 192),
    ],
    bytes(range(224)),
)


def test_the_base_of_the_damaged_files_is_good(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(SMALL)
    with ggq.open(path) as reader:
        assert len(reader.tensors) == 4


@settings(max_examples=1000)
@given(strategies.damaged(SMALL))
def test_a_damaged_file_is_refused_or_sound(
    tmp_path_factory: pytest.TempPathFactory, raw: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.gguf"
    path.write_bytes(raw)
    try:
        reader = ggq.open(path)
    except errors.FormatError:
        return
    with reader:
        check_invariants(reader, path)
        copy = path.with_name("rewritten.gguf")
        with Writer(copy, reader.metadata, list(reader.tensors.values())) as writer:
            for tensor in reader.tensors.values():
                writer.write(tensor.name, tensor.data)
        with ggq.open(copy) as again:
            assert list(again.tensors) == list(reader.tensors)
            for name, tensor in again.tensors.items():
                assert tensor.data.tobytes() == reader.tensors[name].data.tobytes()


def test_errors_are_also_builtins() -> None:
    assert issubclass(errors.FormatError, ValueError)
    assert issubclass(errors.MissingKeyError, KeyError)
    assert issubclass(errors.TensorTypeError, errors.UnknownTypeError)
    assert issubclass(errors.DiskFullError, OSError)
    assert str(errors.MissingKeyError("no 'k'", path="m.gguf")) == "m.gguf: no 'k'"
    assert str(errors.FormatError("cut", path="m", offset_bytes=4096)) == "m: cut (at byte 4,096)"
    assert u64(3) == b"\3" + bytes(7)
