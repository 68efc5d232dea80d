"""A scale or weight that is no number: the run ends with an error, never with a text or a crash."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import ggq
from ggq.blocks import BlockType, all_types, by_name
from ggq.errors import FormatError
from tests.gguf_file import TensorSpec, write_gguf
from tests.models import TINY, gguf_keys, gguf_tensors

# Rows of whole super-blocks.
WIDE = replace(
    TINY["qwen3"],
    config=TINY["qwen3"].config
    | {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1},
)
DAMAGED = "blk.0.ffn_down.weight"
HALF_SCALED = [
    each.name
    for each in all_types()
    if each.can_quantize
    and (each.layout.fields or {}).get("d", [None])[0] == np.float16
    and each.name != "Q8_1"  # holds activations only
]
SINGLES = ["F32", "F16", "BF16"]
NOT_NUMBERS = [np.nan, np.inf, -np.inf]


def write_damaged(path: Path, family: BlockType, value: float) -> Path:
    """A model with one matrix of this type, whose first scale (or weight) is `value`."""
    tensors = {spec.name: spec for spec in gguf_tensors("qwen3", WIDE.config, WIDE.tensors())}
    x = np.asarray(tensors[DAMAGED].data, np.float32)
    importance = np.ones(x.shape[1], np.float32)
    rows = family.quantize(x, importance).copy()
    if family.name in SINGLES:
        x = x.copy()
        x[0, 0] = value
        bits = x.view(np.uint32) >> 16
        rows = {
            "F32": x,
            "F16": x.astype(np.float16),
            "BF16": bits.astype(np.uint16),
        }[family.name].view(np.uint8)
    else:
        rows.view(family.layout)["d"][0, 0] = value
    tensors[DAMAGED] = TensorSpec(DAMAGED, x.shape, family.id, rows, rows.nbytes)
    return write_gguf(path, gguf_keys("qwen3", WIDE.config, "damaged"), list(tensors.values()))


@pytest.mark.parametrize("value", NOT_NUMBERS)
@pytest.mark.parametrize("name", [*HALF_SCALED, *SINGLES])
def test_no_text_from_what_is_no_number(name: str, value: float, tmp_path: Path) -> None:
    path = write_damaged(tmp_path / "damaged.gguf", by_name(name), value)
    with ggq.load(path, n_threads=1) as model:
        for prompt in ("h", "hello there, how are you"):
            with pytest.raises(FormatError, match="weights are damaged") as refusal:
                model.generate(prompt, max_tokens=2, temp=0.0)
            assert refusal.value.exit_code == 3


@pytest.mark.parametrize("value", [0.0, -0.0, 6e-8])
@pytest.mark.parametrize("name", HALF_SCALED)
def test_scales_of_zero_and_below_normal_are_numbers(
    name: str, value: float, tmp_path: Path
) -> None:
    path = write_damaged(tmp_path / "honest.gguf", by_name(name), value)
    with ggq.load(path, n_threads=1) as model:
        session = model.session(16)
        scored = session.score([1, 2, 3])
        session.rewind(0)
        decoded = np.stack([session.decode(token) for token in (1, 2, 3)])
    assert np.isfinite(scored).all()
    assert np.abs(decoded - scored).max() < 0.02 * np.ptp(scored)
