"""Importance matrices: both formats of llama.cpp, and what a wrong one says."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ggq.blocks import by_name
from ggq.convert.imatrix import Imatrix, read_imatrix, write_imatrix
from ggq.errors import FormatError, ImatrixError
from ggq.spec import TensorInfo
from tests.gguf_file import F16, Key, TensorSpec, float_tensor, write_gguf

KEYS = [
    Key("general.type", "str", "imatrix"),
    Key("imatrix.datasets", "[str", ["a.txt", "b.txt"]),
    Key("imatrix.chunk_count", "u32", 7),
    Key("imatrix.chunk_size", "u32", 512),
]
F32 = by_name("F32")


def entry(name: str, sums: list[list[float]], counts: list[float]) -> list[TensorSpec]:
    return [
        float_tensor(f"{name}.in_sum2", np.array(sums, "f4")),
        float_tensor(f"{name}.counts", np.array(counts, "f4").reshape(-1, 1)),
    ]


def legacy(entries: list[tuple[str, int, list[float]]], tail: bytes = b"") -> bytes:
    parts = [struct.pack("<i", len(entries))]
    for name, calls, sums in entries:
        parts.append(struct.pack(f"<i{len(name)}sii", len(name), name.encode(), calls, len(sums)))
        parts.append(np.array(sums, "<f4").tobytes())
    return b"".join(parts) + tail


def values(imatrix: Imatrix, name: str, *shape: int) -> list[list[float]]:
    found = imatrix.importance(TensorInfo(name, shape, F32))
    assert found is not None
    assert found.dtype == np.float32
    return found.tolist()  # type: ignore[no-any-return]


def test_gguf_sums_become_means(tmp_path: Path) -> None:
    specs = entry("b.weight", [[2, 4, 6]], [2]) + entry("a.weight", [[1, 0, 3]], [1])
    imatrix = read_imatrix(write_gguf(tmp_path / "i.gguf", KEYS, specs))
    assert list(imatrix.values) == ["a.weight", "b.weight"]
    assert values(imatrix, "b.weight", 5, 3) == [[1, 2, 3]]
    assert (imatrix.datasets, imatrix.chunk_count) == (["a.txt", "b.txt"], 7)
    assert imatrix.importance(TensorInfo("c.weight", (5, 3), F32)) is None


def test_every_expert_has_its_own_count_and_one_that_was_never_called_weighs_one(
    tmp_path: Path,
) -> None:
    specs = entry("e.weight", [[2, 4], [9, 9], [3, 5]], [2, 0, 1])
    imatrix = read_imatrix(write_gguf(tmp_path / "i.gguf", KEYS, specs))
    assert values(imatrix, "e.weight", 3, 8, 2) == [[1, 2], [1, 1], [3, 5]]


def test_one_count_may_stand_for_all_experts(tmp_path: Path) -> None:
    specs = entry("e.weight", [[2, 4, 6, 8]], [2])
    imatrix = read_imatrix(write_gguf(tmp_path / "i.gguf", KEYS, specs))
    assert values(imatrix, "e.weight", 2, 8, 2) == [[1, 2], [3, 4]]


def test_counts_are_rounded_half_away_from_zero(tmp_path: Path) -> None:
    large = 2.0**23 + 1
    specs = entry("a", [[3], [3], [3], [3], [3], [large]], [2.5, 1.4, 0.5, 0.4, -7, large])
    imatrix = read_imatrix(write_gguf(tmp_path / "i.gguf", KEYS, specs))
    assert values(imatrix, "a", 6, 8, 1) == [[1], [3], [3], [1], [1], [1]]


def test_legacy_sums_are_divided_by_the_calls(tmp_path: Path) -> None:
    path = tmp_path / "i.dat"
    tail = struct.pack("<ii5s", 12, 5, b"c.txt")
    path.write_bytes(legacy([("a", 4, [4, 8]), ("b", 0, [5, 6]), ("c", -1, [7])], tail))
    imatrix = read_imatrix(path)
    assert values(imatrix, "a", 9, 2) == [[1, 2]]
    assert values(imatrix, "b", 9, 2) == [[5, 6]]
    assert values(imatrix, "c", 9, 1) == [[7]]
    assert (imatrix.datasets, imatrix.chunk_count) == (["c.txt"], 12)


@pytest.mark.parametrize(
    ("tail", "chunks"),
    [
        (b"", 0),
        (b"\x01", 0),
        (struct.pack("<i", 3), 3),
        (struct.pack("<ii", 3, 0), 3),
        (struct.pack("<ii2s", 3, 9, b"ab"), 3),
    ],
)
def test_the_tail_of_a_legacy_file_is_optional(tmp_path: Path, tail: bytes, chunks: int) -> None:
    path = tmp_path / "i.dat"
    path.write_bytes(legacy([("a", 1, [1])], tail))
    imatrix = read_imatrix(path)
    assert (imatrix.datasets, imatrix.chunk_count) == ([], chunks)


def test_an_entry_of_another_size_is_of_another_model(tmp_path: Path) -> None:
    specs = entry("a.weight", [[1, 2, 3]], [1]) + entry("token_embd.weight", [[1, 2, 3]], [1])
    imatrix = read_imatrix(write_gguf(tmp_path / "i.gguf", KEYS, specs))
    with pytest.raises(ImatrixError, match=r"a\.weight has 3 values, but .* 2 x 4 columns"):
        imatrix.importance(TensorInfo("a.weight", (2, 8, 4), F32))
    assert imatrix.importance(TensorInfo("token_embd.weight", (8, 4), F32)) is None


@pytest.mark.parametrize(
    ("keys", "specs", "message"),
    [
        (KEYS[:1], entry("a", [[1]], [1]), r"lacks key imatrix\.datasets"),
        (KEYS[:3], entry("a", [[1]], [1]), r"lacks key imatrix\.chunk_size"),
        (KEYS, [], "lacks a single tensor"),
        (KEYS, [float_tensor("a.weight", np.ones((1, 4), "f4"))], r"none of its tensors ends in"),
        (KEYS, entry("a", [[1]], [1])[:1], r"a\.counts must be F32, but it is not there"),
        (KEYS, entry("a", [[1]], [1])[1:], r"a\.in_sum2 must be F32, but it is not there"),
        (
            KEYS,
            [float_tensor("a.in_sum2", np.ones((1, 4), "f4"), F16), *entry("a", [[1]], [1])[1:]],
            r"a\.in_sum2 must be F32, but it is F16",
        ),
        (KEYS, entry("a", [[1, 2, 3]], [1, 1]), "3 sums for 2 counts"),
        (KEYS, entry("a", [[1, np.inf]], [1]), "a has inf at column 1"),
        (KEYS, entry("a", [[1, 2]], [np.nan]), r"a\.counts has nan among its counts"),
        (KEYS, entry("a", [[1, 2]], [np.inf]), r"a\.counts has inf among its counts"),
    ],
)
def test_a_wrong_gguf_imatrix_says_what_is_wrong(
    tmp_path: Path, keys: list[Key], specs: list[TensorSpec], message: str
) -> None:
    path = write_gguf(tmp_path / "i.gguf", keys, specs)
    with pytest.raises(ImatrixError, match=message) as caught:
        read_imatrix(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "ends inside the number of entries"),
        (struct.pack("<i", 0), "0 entries"),
        (struct.pack("<i", -1), "-1 entries"),
        (b"PK\x03\x04" + bytes(20), "does not begin with 'GGUF'"),
        (struct.pack("<iii", 1, -5, 0), "the name of entry 0 would be -5 bytes"),
        (legacy([("a", 1, [1])])[:-1], "ends inside the values of a"),
        (legacy([("a", 1, [1])])[:9], "ends inside the calls of a"),
        (legacy([("a", 1, [])]), "the entry of a has 0 values"),
        (legacy([("a", 1, [1, np.nan])]), "the entry of a has nan at column 1"),
        (legacy([("a", 1, [1])])[:13] + struct.pack("<i", 2**31 - 1), "ends inside the values"),
    ],
)
def test_a_wrong_legacy_imatrix_says_what_is_wrong(
    tmp_path: Path, raw: bytes, message: str
) -> None:
    path = tmp_path / "i.dat"
    path.write_bytes(raw)
    with pytest.raises((ImatrixError, FormatError), match=message) as caught:
        read_imatrix(path)
    assert str(path) in str(caught.value)


def test_a_missing_imatrix_is_the_systems_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_imatrix(tmp_path / "none.dat")


def test_what_is_written_is_read_by_the_gguf_package(tmp_path: Path) -> None:
    from gguf import GGUFReader

    sums, counts = np.arange(6, dtype=np.float32).reshape(2, 3), np.array([4, 5], np.float32)
    path = tmp_path / "i.gguf"
    write_imatrix(path, {"b": (sums, counts)}, datasets=["x"], chunk_count=3, chunk_size=64)
    reader = GGUFReader(path)
    assert [key for key in reader.fields if not key.startswith("GGUF.")] == [k.name for k in KEYS]
    found = {t.name: (list(map(int, t.shape)), t.data.tolist()) for t in reader.tensors}
    assert found == {
        "b.in_sum2": ([3, 2], sums.tolist()),
        "b.counts": ([1, 2], counts[:, None].tolist()),
    }


@settings(
    max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(
    sums=hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 4), st.integers(1, 9)),
        elements=st.floats(0, 2.0**60, width=32),
    ),
    count=st.integers(0, 2**24),
)
def test_a_written_imatrix_gives_sum_over_count(
    tmp_path: Path, sums: np.ndarray, count: int
) -> None:  # type: ignore[type-arg]
    counts = np.full(len(sums), count, np.float32)
    write_imatrix(tmp_path / "i.gguf", {"a": (sums, counts)}, chunk_count=1, chunk_size=1)
    found = read_imatrix(tmp_path / "i.gguf").importance(
        TensorInfo("a", (len(sums), 2, sums.shape[1]), F32)
    )
    expected = sums / np.float32(count) if count else np.ones_like(sums)
    np.testing.assert_array_equal(found, expected)
