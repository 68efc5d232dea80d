"""The stand-ins: the same function when widened, and noise of half a step when dithered."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import ggq
from tests.models import F32Array, seeded
from tests.standins import GEMMA3_KEPT, dither, spread, widen_gemma3, widen_smollm2, write_standin

TEXT = Path(__file__).parent / "data" / "moby-dick.txt"
TOKENS = 48


def test_spread_puts_a_zero_after_every_so_many_entries() -> None:
    x = np.arange(1, 7, dtype=np.float32)
    assert spread(x, 0, 3).tolist() == [1, 2, 3, 0, 4, 5, 6, 0]
    assert spread(x[None], 1, 2).tolist() == [[1, 2, 0, 3, 4, 0, 5, 6, 0]]


def test_the_widened_norm_and_projection_compute_the_same() -> None:
    def project(x: F32Array, norm: F32Array, up: F32Array, eps: float) -> F32Array:
        x = x.astype(np.float64)
        return (x / np.sqrt((x**2).mean(axis=1, keepdims=True) + eps) * norm) @ up.T

    for width, kept, widen in ((576, 3, widen_smollm2), (640, 5, widen_gemma3)):
        x, up = seeded("x", (5, width), 1.0), seeded("up", (32, width), 0.05)
        norm = seeded("norm", (width,), 0.2) + np.float32(1)
        narrow = project(x, norm, up, 1e-5)
        wide_up, wide_norm = widen("blk.0.ffn_up.weight", up), widen("blk.0.ffn_norm.weight", norm)
        wide = project(spread(x, 1, kept), wide_norm, wide_up, 1e-5 * kept / (kept + 1))
        np.testing.assert_allclose(wide, narrow, rtol=1e-6, atol=1e-7)


def test_the_widened_shapes() -> None:
    def smollm2(name: str, *old: int) -> tuple[int, ...]:
        return widen_smollm2(name, np.ones(old, np.float32)).shape

    assert smollm2("token_embd.weight", 10, 576) == (10, 768)
    assert smollm2("blk.0.attn_q.weight", 576, 576) == (768, 768)
    assert smollm2("blk.0.attn_k.weight", 192, 576) == (256, 768)
    assert smollm2("blk.0.attn_v.weight", 192, 576) == (256, 768)
    assert smollm2("blk.0.attn_output.weight", 576, 576) == (768, 768)
    assert smollm2("blk.0.ffn_down.weight", 576, 1536) == (768, 1536)
    assert smollm2("output_norm.weight", 576) == (768,)

    def gemma3(name: str, *old: int) -> tuple[int, ...]:
        return widen_gemma3(name, np.ones(old, np.float32)).shape

    assert gemma3("token_embd.weight", 10, 640) == (10, 768)
    assert gemma3("blk.0.attn_q.weight", 1024, 640) == (1024, 768)
    assert gemma3("blk.0.attn_output.weight", 640, 1024) == (768, 1024)
    assert gemma3("blk.0.ffn_down.weight", 640, 2048) == (768, 2048)
    assert gemma3("blk.0.attn_q_norm.weight", 256) == (256,)
    assert gemma3("output_norm.weight", 640) == (768,)


def test_gemma3_factors() -> None:
    one = np.ones(640, np.float32)
    root = GEMMA3_KEPT**0.5
    for norm in ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"):
        assert widen_gemma3(f"blk.3.{norm}.weight", one).max() == pytest.approx(root)
    assert widen_gemma3("output_norm.weight", one).max() == pytest.approx(1)
    assert widen_gemma3("token_embd.weight", one[None]).max() == pytest.approx(root)
    assert widen_gemma3("blk.3.attn_k_norm.weight", one[:256]).max() == 1


@pytest.mark.parametrize(("eight_bit", "levels"), [(False, 15), (True, 255)])
def test_noise_is_uniform_in_half_a_step_of_every_32_weights(eight_bit: bool, levels: int) -> None:
    x = seeded("weight", (64, 128), 0.02)
    noise = (dither(x, eight_bit, np.random.default_rng(3)) - x).reshape(-1, 32)
    runs = x.reshape(-1, 32)
    step = (runs.max(axis=1) - runs.min(axis=1))[:, None] / levels
    assert np.abs(noise / step).max() == pytest.approx(0.5, abs=1e-2)
    assert (noise / step).std() == pytest.approx(12**-0.5, rel=0.02)
    assert abs((noise / step).mean()) < 0.01


@pytest.mark.parametrize("published", ["smollm2", "gemma3"])
def test_a_widened_model_computes_what_the_published_one_does(
    published: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    source: Path = request.getfixturevalue(published)
    if published == "smollm2":
        wide: Path = request.getfixturevalue("widened_smollm2")
    else:
        wide = write_standin(source, tmp_path / "wide.gguf", seed=None)
    cache = {"cache_type_k": "f32", "cache_type_v": "f32"}
    with ggq.load(source, exact=True, **cache) as model:
        tokens = model.tokenize(TEXT.read_text(encoding="utf-8")[:1000])[:TOKENS]
        wanted = model.logits(tokens)
    with ggq.load(wide, **cache) as model:
        assert model.hparams.n_embd == 768
        found = model.logits(tokens)
    error = np.abs(found - wanted).max() / (wanted.max() - wanted.min())
    print(f"{published}: {error:.1e} of the range")
    assert error <= 1e-4
    (tmp_path / "wide.gguf").unlink(missing_ok=True)
