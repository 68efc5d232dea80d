"""The safetensors reader against the official library, and every way a file can be wrong."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ggq.convert.sources.safetensors import SafetensorsFile
from ggq.errors import ConvertError, SafetensorsError

DTYPES = ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u1", "?"]
ARRAYS = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=1, max_dims=3, max_side=5))
)


@settings(deadline=None)
@given(st.dictionaries(st.text(min_size=1, max_size=9), ARRAYS, min_size=1, max_size=4), st.data())
def test_rows_are_those_of_the_library(
    tmp_path_factory: pytest.TempPathFactory, arrays: dict[str, Any], data: st.DataObject
) -> None:
    arrays.pop("__metadata__", None)
    path = tmp_path_factory.mktemp("st") / "m.safetensors"
    save_file(arrays, path)
    file = SafetensorsFile(path)
    assert file.tensors.keys() == arrays.keys()
    for name, x in arrays.items():
        tensor = file.tensors[name]
        assert tensor.shape == x.shape
        rows = x.reshape(tensor.n_rows, -1)
        start = data.draw(st.integers(0, tensor.n_rows))
        stop = data.draw(st.integers(start, tensor.n_rows))
        file.will_need(tensor, start, stop)
        read = file.rows(tensor, start, stop)
        assert read.dtype == x.dtype
        assert read.tobytes() == rows[start:stop].tobytes()
        file.release(tensor, start, stop)
        assert file.rows(tensor, start, stop).tobytes() == rows[start:stop].tobytes()


def packed(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(dtype: Any = "F32", shape: Any = (2,), start: Any = 0, stop: Any = 8) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


DEEP = b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"
BAD = {
    "empty": (b"", "has 0 bytes"),
    "short": (b"\0" * 7, "has 7 bytes"),
    "huge header": (packed({}, length=2**63), "header is said to have"),
    "header beyond the file": (packed({}, length=3), "header is said to have"),
    "no JSON": (packed(b"{"), "not valid JSON"),
    "no UTF-8": (packed(b'{"\xff": 1}'), "not valid JSON"),
    "deep JSON": (packed(DEEP), "not valid JSON|not an object"),
    "no object": (packed([1]), "not a JSON object"),
    "entry no object": (packed({"a": 1}), "'a' is not an object"),
    "duplicate": (
        packed(b'{"a":%b,"a":%b}' % ((json.dumps(entry()).encode(),) * 2), bytes(8)),
        "occurs twice",
    ),
    "overlap": (packed({"a": entry(), "b": entry(start=4, stop=12)}, bytes(12)), "'b' begins"),
    "same place": (packed({"a": entry(), "b": entry()}, bytes(8)), "begins at byte"),
    "hole": (packed({"a": entry(), "b": entry(start=12, stop=20)}, bytes(20)), "'b' begins"),
    "late start": (packed({"a": entry(start=4, stop=12)}, bytes(12)), "'a' begins"),
    "truncated": (packed({"a": entry()}, bytes(7)), "the tensors end at byte"),
    "bytes left over": (packed({"a": entry()}, bytes(9)), "the tensors end at byte"),
    "size of shape": (packed({"a": entry(shape=(3,))}, bytes(8)), "has 12 bytes"),
    "overflowing shape": (packed({"a": entry(shape=(2**62, 4, 2))}, bytes(8)), "data_offsets"),
    "negative shape": (packed({"a": entry(shape=(-1, -2))}, bytes(8)), "has shape"),
    "float shape": (packed({"a": entry(shape=(2.0,))}, bytes(8)), "has shape"),
    "bool shape": (packed({"a": entry(shape=(True, 2))}, bytes(8)), "has shape"),
    "no shape": (packed({"a": entry(shape=None)}, bytes(8)), "has shape"),
    "nine dimensions": (packed({"a": entry(shape=(1,) * 8 + (2,))}, bytes(8)), "has shape"),
    "negative offset": (packed({"a": entry(start=-8, stop=0)}, bytes(8)), "data_offsets"),
    "reversed offsets": (packed({"a": entry(start=8, stop=0)}, bytes(8)), "data_offsets"),
    "text offset": (packed({"a": entry(start="0")}, bytes(8)), "data_offsets"),
    "one offset": (
        packed({"a": {"dtype": "F32", "shape": [2], "data_offsets": [8]}}, bytes(8)),
        "data_offsets",
    ),
    "offset beyond 64 bits": (packed({"a": entry(stop=10**30)}, bytes(8)), "data_offsets"),
    "eight-bit float": (packed({"a": entry("F8_E4M3", (8,))}, bytes(8)), "'F8_E4M3'"),
    "dtype no text": (packed({"a": entry(["F32"])}, bytes(8)), "dtype"),
}


@pytest.mark.parametrize("name", BAD)
def test_faults_are_named(name: str, tmp_path: Path) -> None:
    raw, message = BAD[name]
    path = tmp_path / "bad.safetensors"
    path.write_bytes(raw)
    tracemalloc.start()
    with pytest.raises(SafetensorsError, match=message) as caught:
        SafetensorsFile(path)
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
    tracemalloc.stop()
    assert str(path) in str(caught.value)


# Here ggq is stricter than the library.
FINE_FOR_THE_LIBRARY = {"nine dimensions", "eight-bit float", "duplicate"}


@pytest.mark.parametrize("name", [name for name in BAD if name not in FINE_FOR_THE_LIBRARY])
def test_library_refuses_the_same(name: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(BAD[name][0])
    with pytest.raises((SafetensorError, OverflowError)), safe_open(path, "np"):
        pass


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"a": np.arange(6.0).reshape(2, 3), "b": np.ones(3, np.float16)}, path)
    raw = path.read_bytes()
    for length in range(len(raw)):
        path.write_bytes(raw[:length])
        with pytest.raises(SafetensorsError):
            SafetensorsFile(path)


def test_zero_sized_tensors_and_metadata_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(packed({"__metadata__": {"format": "pt"}, "a": entry(shape=(0, 4), stop=0)}))
    file = SafetensorsFile(path)
    assert file.rows(file.tensors["a"], 0, 0).size == 0


def test_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConvertError, match="not a regular file"):
        SafetensorsFile(tmp_path)
