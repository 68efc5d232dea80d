"""Hypothesis strategies: metadata, tensors and damaged bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from ggq.blocks import all_types
from ggq.metadata import Metadata
from ggq.spec import NUMBERS, TensorInfo, ValueType

names = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=15
)
raw_strings = st.binary(max_size=300)


@st.composite
def numbers(draw: st.DrawFn, kind: ValueType) -> Any:
    """A number of type `kind`; floats are exact in it, and never NaN."""
    dtype = NUMBERS[kind]
    if kind is ValueType.BOOL:
        return draw(st.booleans())
    if dtype.kind == "f":
        return draw(st.floats(allow_nan=False, width=32 if dtype.itemsize == 4 else 64))
    limits = np.iinfo(dtype)  # type: ignore[type-var]
    return draw(st.integers(int(limits.min), int(limits.max)))


@st.composite
def metadatas(draw: st.DrawFn, max_size: int = 6) -> Metadata:
    """Metadata of every value type, in any order, with any keys but those that mean something."""
    metadata = Metadata()
    scalar_types = st.sampled_from([t for t in ValueType if t is not ValueType.ARRAY])
    keys = names.filter(lambda key: key != "general.alignment" and not key.startswith("split."))
    for key in draw(st.lists(keys, unique=True, max_size=max_size)):
        kind = draw(scalar_types)
        items: st.SearchStrategy[Any] = raw_strings if kind is ValueType.STRING else numbers(kind)
        if draw(st.booleans()):
            metadata.set(key, draw(items), kind)
        else:
            metadata.set(key, draw(st.lists(items, max_size=5)), ValueType.ARRAY, kind)
    return metadata


@st.composite
def tensor_infos(draw: st.DrawFn, max_size: int = 5) -> list[TensorInfo]:
    """Small tensors of every type with 0 to 4 dimensions, zero-sized ones included."""
    infos = []
    for name in draw(st.lists(names, unique=True, max_size=max_size)):
        block = draw(st.sampled_from(all_types()))
        rows = draw(st.lists(st.integers(0, 3), max_size=3))
        columns = [draw(st.integers(0, 3)) * block.weights]
        shape = tuple(rows + columns)
        if block.weights == 1 and draw(st.booleans()):
            shape = ()
        infos.append(TensorInfo(name, shape, block))
    return infos


@st.composite
def damaged(draw: st.DrawFn, good: bytes) -> bytes:
    """`good` with some bytes changed, cut out or put in, or the end missing."""
    raw = bytearray(good)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(raw) - 1))
        match draw(st.sampled_from(["set", "flip", "word", "cut", "insert", "truncate"])):
            case "set":
                raw[at] = draw(st.integers(0, 255))
            case "flip":
                raw[at] ^= 1 << draw(st.integers(0, 7))
            case "word":
                word = draw(st.sampled_from([0, 1, 2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1]))
                raw[at : at + 8] = word.to_bytes(8, "little")
            case "cut":
                del raw[at : at + draw(st.integers(1, 9))]
            case "insert":
                raw[at:at] = draw(st.binary(min_size=1, max_size=9))
            case "truncate":
                del raw[at:]
        if not raw:
            break
    return bytes(raw)
