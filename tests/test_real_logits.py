"""Logits of the published models, weights as singles, against transformers' in single precision.

tests/golden/make_real_models.py says what of them is kept. The text is longer than Gemma's window.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import ggq
from tests.exact import write_f32

HERE = Path(__file__).parent


@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
def test_logits_are_those_of_transformers(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    with np.load(HERE / "golden" / "real_models.npz") as arrays:
        golden = {key.removeprefix(f"{name}."): x for key, x in arrays.items() if name in key}
    tokens = golden["tokens"].tolist()
    positions = len(golden["top"])
    assert positions >= 64
    f32 = write_f32(request.getfixturevalue(name), tmp_path / "f32.gguf")
    with ggq.load(f32, n_threads=1) as model:
        text = (HERE / "data" / "moby-dick.txt").read_text(encoding="utf-8")
        assert model.tokenize(text)[: len(tokens)] == tokens
        session = model.session(len(tokens))
        session.prefill(tokens[:-positions])
        logits = session.score(tokens[-positions:])
    f32.unlink()
    top = np.take_along_axis(logits, golden["top"].astype(np.int64), axis=1)
    even = logits[:, :: int(golden["step"])]
    error = max(
        np.abs(top - golden["top_logits"]).max(), np.abs(even - golden["even_logits"]).max()
    )
    print(f"{name}: largest error {error / golden['range']:.1e} of the logit range")
    assert error < 1e-3 * golden["range"]
    assert np.ptp(logits) == pytest.approx(golden["range"], rel=1e-3)
