"""Metadata: values, typed access, setting, bytes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggq.cursor import Cursor
from ggq.errors import MetadataKeyError, MetadataTypeError, MissingKeyError
from ggq.metadata import Metadata
from ggq.spec import ValueType
from ggq.strings import StringArray
from tests import crafted, strategies


def decoded(pairs: list[bytes]) -> Metadata:
    cursor = Cursor(memoryview(b"".join(pairs)), "crafted.gguf")
    return Metadata.decode(cursor, len(pairs))


def test_every_value_type_is_read() -> None:
    metadata = decoded(crafted.every_kind())
    scalars = [metadata[f"scalar.{kind}"] for kind in range(13) if kind != crafted.ARRAY]
    tenth = float(np.float32(0.1))
    assert scalars == [
        200, -56, 12345, -12345, 3_000_000_000, -7, tenth, True, "café", 2**64 - 1, -9, 0.1
    ]  # fmt: skip
    assert [type(value) for value in scalars] == [int] * 6 + [float, bool, str, int, int, float]


def test_every_array_type_is_read() -> None:
    metadata = decoded(crafted.every_kind())
    for kind in ValueType:
        if kind is not ValueType.ARRAY:
            values = metadata[f"array.{int(kind)}"]
            assert list(values) == [metadata[f"scalar.{int(kind)}"]] * 3
            assert metadata.type(f"array.{int(kind)}") is ValueType.ARRAY
            assert metadata.item_type(f"array.{int(kind)}") is kind
    assert metadata.item_type("scalar.0") is None
    assert list(metadata["array.empty"]) == []


def test_any_byte_but_zero_is_true() -> None:
    pairs = [
        crafted.pair(b"a", crafted.BOOL, b"\x02"),
        crafted.pair(b"b", crafted.ARRAY, crafted.array(crafted.BOOL, 3, b"\x00\x01\xff")),
    ]
    metadata = decoded(pairs)
    assert metadata["a"] is True
    assert metadata["b"].tolist() == [False, True, True]


def test_bytes_that_are_not_utf8_survive() -> None:
    metadata = decoded(crafted.every_kind())
    assert metadata["not.utf8"] == "\udcff\udcfe\udced\udca0\udc80"
    assert metadata.encode() == b"".join(crafted.every_kind())


def test_pairs_are_written_as_they_were_read() -> None:
    assert decoded(crafted.every_kind()).encode() == b"".join(crafted.every_kind())


def test_set_keeps_the_place_of_a_known_key() -> None:
    metadata = Metadata()
    for key in "abc":
        metadata.set(key, 1, ValueType.U32)
    metadata.set("b", "text", ValueType.STRING)
    assert list(metadata) == ["a", "b", "c"]
    assert metadata.type("b") is ValueType.STRING


def test_copy_and_pop_leave_the_original() -> None:
    metadata = decoded(crafted.every_kind())
    copy = metadata.copy()
    assert copy == metadata
    assert copy.pop("scalar.0") == 200
    assert "scalar.0" in metadata
    assert copy != metadata


def test_floats_are_rounded_when_set() -> None:
    metadata = Metadata()
    metadata.set("x", 0.1, ValueType.F32)
    assert metadata["x"] == float(np.float32(0.1))


def test_order_and_types_count_for_equality() -> None:
    a, b, c = Metadata(), Metadata(), Metadata()
    for metadata, keys in ((a, "xy"), (b, "yx"), (c, "xy")):
        for key in keys:
            metadata.set(key, 1, ValueType.U8 if metadata is c else ValueType.U16)
    assert a != b
    assert a != c
    assert a != {"x": 1, "y": 1}


@pytest.mark.parametrize(
    "value, kind, item",
    [
        (256, ValueType.U8, None),
        (-1, ValueType.U32, None),
        (2**64, ValueType.U64, None),
        (1.5, ValueType.I32, None),
        (True, ValueType.U8, None),
        (1, ValueType.BOOL, None),
        (b"x", ValueType.F32, None),
        ([1], ValueType.U8, None),
        (1, ValueType.STRING, None),
        (None, ValueType.STRING, None),
        ([1], ValueType.ARRAY, None),
        ([[1]], ValueType.ARRAY, ValueType.ARRAY),
        ([[1]], ValueType.ARRAY, ValueType.U8),
        ([300], ValueType.ARRAY, ValueType.U8),
        ([0.5], ValueType.ARRAY, ValueType.U8),
        ([1], ValueType.ARRAY, ValueType.BOOL),
        ([2**65], ValueType.ARRAY, ValueType.U64),
        (["a"], ValueType.ARRAY, ValueType.U8),
        (["a"], ValueType.ARRAY, ValueType.F32),
        ([1], ValueType.ARRAY, ValueType.STRING),
        ("abc", ValueType.ARRAY, ValueType.STRING),
    ],
)
def test_a_value_that_does_not_fit_is_refused(
    value: object, kind: ValueType, item: ValueType | None
) -> None:
    with pytest.raises(MetadataTypeError, match="'k'"):
        Metadata().set("k", value, kind, item)


def test_a_key_no_file_can_hold_is_refused() -> None:
    for key in ("", "\udcff", "\ud800"):
        with pytest.raises(MetadataKeyError):
            Metadata().set(key, 1, ValueType.U8)


def test_text_no_file_can_hold_is_refused() -> None:
    with pytest.raises(MetadataTypeError, match="'k'"):
        Metadata().set("k", "\ud800", ValueType.STRING)


def test_typed_access() -> None:
    metadata = decoded(crafted.every_kind())
    assert metadata.require("scalar.4", int) == 3_000_000_000
    assert metadata.require("scalar.8", str) == "café"
    assert metadata.require("scalar.7", bool) is True
    assert metadata.require("array.8", StringArray).tolist() == ["café"] * 3
    assert metadata.require("array.6", np.ndarray).dtype == np.float32
    assert metadata.get_int("absent", 7) == 7
    assert metadata.get_float("absent", 0.5) == 0.5
    assert metadata.get_bool("absent", True) is True
    assert metadata.get_str("absent", "x") == "x"


@pytest.mark.parametrize(
    "key, kind", [("scalar.7", int), ("scalar.4", float), ("scalar.8", int), ("array.8", str)]
)
def test_a_value_of_another_type_is_named(key: str, kind: type) -> None:
    metadata = decoded(crafted.every_kind())
    with pytest.raises(MetadataTypeError, match=f"crafted.gguf: key '{key}' is .*{kind.__name__}"):
        metadata.require(key, kind)


def test_a_missing_key_is_named() -> None:
    metadata = decoded([])
    with pytest.raises(MissingKeyError, match=r"crafted\.gguf: key 'x' is missing"):
        metadata["x"]
    with pytest.raises(KeyError):
        metadata.require("x", int)


def test_string_arrays_decode_on_demand() -> None:
    texts = ["", "a", "ö" * 300, "\udcff"]
    strings = StringArray.of(texts)
    assert list(strings) == strings.tolist() == texts
    assert strings[-1] == "\udcff"
    assert strings.raw(3) == b"\xff"
    assert strings[1:3] == texts[1:3]
    assert strings == texts
    assert strings == StringArray.of(strings)
    assert strings != StringArray.of(texts[:-1])
    with pytest.raises(IndexError):
        strings[4]


@given(st.lists(st.binary(max_size=600), max_size=8))
def test_strings_of_any_length_are_walked(raws: list[bytes]) -> None:
    items = b"".join(map(crafted.string, raws))
    pairs = [crafted.pair(b"k", crafted.ARRAY, crafted.array(crafted.STRING, len(raws), items))]
    assert decoded(pairs)["k"].raw_list() == raws


@given(strategies.metadatas())
def test_decode_inverts_encode(metadata: Metadata) -> None:
    raw = metadata.encode()
    again = Metadata.decode(Cursor(memoryview(raw), None), len(metadata))
    assert list(again) == list(metadata)
    assert again.encode() == raw
    for key, value in metadata.items():
        assert again.type(key) is metadata.type(key)
        assert np.array_equal(again[key], value)
