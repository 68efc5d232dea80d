"""Sources and statistics that transforms are tested on."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

import ggq
from ggq.blocks import BlockType, by_name
from ggq.convert.calibrate.statistics import TensorStatistics
from ggq.convert.sources.tensor_source import Source
from ggq.convert.transforms import Fold, ordered, scaled, source_channels

F32 = npt.NDArray[np.float32]
TOKENS = 96


class MadeUp:
    """Statistics of made-up inputs; some channels are `outlier` times as large as the rest."""

    def __init__(self, source: Source, outlier: float = 8.0, *, samples: bool = True) -> None:
        self.shapes = {t.info.name: t.info.shape for t in source.tensors if len(t.info.shape) > 1}
        self.outlier = outlier
        self.samples = samples

    @property
    def names(self) -> Sequence[str]:
        return list(self.shapes)

    @property
    def gradients(self) -> bool:
        return self.samples

    def squares(self, name: str) -> tuple[F32, npt.NDArray[np.int64]]:
        shape = self.shapes[name]
        experts = range(shape[0]) if len(shape) > 2 else [None]
        rows = [self.of(name, expert).square for expert in experts]
        return np.stack(rows), np.full(len(rows), TOKENS)

    def of(
        self, name: str, expert: int | None = None, *, guided: bool = True, samples: bool = True
    ) -> TensorStatistics:
        *_, rows, columns = self.shapes[name]
        rng = np.random.default_rng([zlib.crc32(name.encode()), expert or 0])
        x = rng.standard_normal((TOKENS, columns)).astype(np.float32)
        x[:, ::11] *= np.float32(self.outlier)
        gram = x.T @ x / len(x)
        has = samples and self.samples
        return TensorStatistics(
            columns=columns, count=len(x), square=np.square(x).mean(axis=0), mean=x.mean(axis=0),
            gram=gram, first_rows=x[:1], guided=gram if guided else None,
            guided_first_rows=x[:1] if guided else None, inputs=x if has else None,
            gradients=rng.standard_normal((TOKENS, rows)).astype(np.float32) if has else None,
        )  # fmt: skip


def types_of(source: Source, name: str) -> dict[str, BlockType]:
    """Every matrix as type `name`, but routers."""
    matrices = (t.info for t in source.tensors if len(t.info.shape) > 1)
    return {info.name: by_name(name) for info in matrices if "ffn_gate_inp." not in info.name}


def random_fold(source: Source, seed: int) -> Fold:
    """Every site scaled, every group reordered."""
    rng, channels, fold = np.random.default_rng(seed), source_channels(source), Fold()
    for site in channels.sites:
        fold = fold.then(scaled(site, np.exp2(rng.uniform(-3, 3, site.width)).astype(np.float32)))
    for group in channels.groups:
        places = rng.permuted(np.arange(group.width).reshape(-1, group.run), axis=1)
        fold = fold.then(ordered(group, places.reshape(-1)))
    return fold


def write_f32(source: Source, path: Path, step: int = 7) -> Path:
    """The source as an F32 file, read `step` rows at a time."""
    f32 = by_name("F32")
    infos = [replace(tensor.info, type=f32) for tensor in source.tensors]
    metadata = source.metadata.copy()
    metadata.set("general.file_type", 0, ggq.ValueType.U32)
    with ggq.Writer(path, metadata, infos) as writer:
        for tensor in source.tensors:
            rows = max(1, step // tensor.group) * tensor.group
            for start in range(0, tensor.n_rows, rows):
                stop = min(start + rows, tensor.n_rows)
                writer.write(tensor.info.name, tensor.floats(start, stop).data)
    return path


def exact_logits(path: Path, tokens: list[int]) -> F32:
    """f32 [T, V]: nothing rounded, not even what the cache keeps."""
    kept = {"cache_type_k": "f32", "cache_type_v": "f32"}
    with ggq.load(path, n_threads=1, exact=True, **kept) as model:
        return model.logits(tokens)
