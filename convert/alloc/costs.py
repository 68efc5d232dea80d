"""What every type would cost every tensor: the KL divergence that its rounding error predicts.

Around the model itself the divergence is a quadratic form whose matrix is Fisher's information, so
an error dW of one matrix costs E[(g . dW x)^2] / 2, x its inputs and g the gradient of the log
probability of a token drawn from the model (Amari 2016, "Information Geometry", ch. 12). dW is the
real error of the method in use, on a sample of rows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ggq.blocks import BlockType
from ggq.convert.alloc.head_cost import HeadCost
from ggq.convert.alloc.knapsack import Choice
from ggq.convert.calibrate.statistics import TensorStatistics, proxy
from ggq.convert.methods import covering
from ggq.convert.mixtures.plan import Plan, PlannedTensor
from ggq.convert.sources.tensor_source import TensorSource
from ggq.convert.writing.progress import Progress
from ggq.convert.writing.rows_store import RowsStore
from ggq.convert.writing.workers import side_by_side

F32 = npt.NDArray[np.float32]

SAMPLED_ROWS = 96
HEAD_ROWS = 1024
RUNS = 6  # consecutive rows of the sample, so that every head has some


def cost_table(
    plan: Plan,
    menu: Mapping[str, Sequence[BlockType]],
    store: RowsStore,
    head: str | None,
    progress: bool,
) -> dict[str, list[Choice]]:
    """Tensor name -> its choices with bytes and costs. `head`: the tensor that makes the logits.

    Tensors calibration knows nothing of keep the type they have.
    """
    tensors = [tensor for tensor in plan.tensors if store.knows(tensor.name)]
    tensors = [tensor for tensor in tensors if len(menu[tensor.name]) > 1]
    known = KnownCosts(store.folder / "costs.jsonl")

    def missing(tensor: PlannedTensor) -> dict[str, float]:
        types = [type for type in menu[tensor.name] if type.name not in known.of(tensor.name)]
        costs = _head_costs if tensor.name == head else _matrix_costs
        found = costs(store, tensor, types) if types else []
        return {type.name: cost for type, cost in zip(types, found, strict=True)}

    total = sum(tensor.n_weights for tensor in tensors)
    with Progress(total, progress, "weighing types") as bar:
        all_found = side_by_side(missing, tensors, store.threads)
        for tensor, found in zip(tensors, all_found, strict=True):
            known.add(tensor.name, found)
            bar.advance(tensor.n_weights)
    return {
        tensor.name: [
            Choice(type.name, _nbytes(tensor, type), known.of(tensor.name)[type.name])
            for type in menu[tensor.name]
        ]
        for tensor in tensors
    }


class KnownCosts:
    """Costs in a file, a line for each tensor; a last line that was cut off is dropped."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._costs: dict[str, dict[str, float]] = {}
        lines = path.read_text().split("\n") if path.exists() else []
        for line in lines[:-1]:
            self._remember(**json.loads(line))
        if lines and lines[-1]:
            path.write_text("".join(f"{line}\n" for line in lines[:-1]))

    def of(self, tensor: str) -> dict[str, float]:
        """Type -> cost, as far as known."""
        return self._costs.get(tensor, {})

    def add(self, tensor: str, costs: dict[str, float]) -> None:
        """Remember costs by type."""
        if costs:
            self._remember(tensor, costs)
            with self._path.open("a") as file:
                file.write(json.dumps({"tensor": tensor, "costs": costs}) + "\n")

    def _remember(self, tensor: str, costs: dict[str, float]) -> None:
        self._costs[tensor] = self.of(tensor) | costs


def _nbytes(tensor: PlannedTensor, type: BlockType) -> int:
    return tensor.n_weights // type.weights * type.nbytes


def _matrix_costs(
    store: RowsStore, planned: PlannedTensor, types: Sequence[BlockType]
) -> list[float]:
    tensor = store.tensors[planned.name]
    shape = tensor.info.shape
    height = shape[-2] if len(shape) > 2 else tensor.n_rows
    experts = range(tensor.n_rows // height) if len(shape) > 2 else [None]
    totals = np.zeros(len(types))
    for expert in experts:
        first = 0 if expert is None else expert * height
        totals += _expert_costs(store, tensor, types, expert, first, height)
    return [float(total) for total in totals]


def _expert_costs(
    store: RowsStore,
    tensor: TensorSource,
    types: Sequence[BlockType],
    expert: int | None,
    first: int,
    height: int,
) -> npt.NDArray[np.float64]:
    stats, prepared = store.prepared(tensor.info.name, expert)
    rows = sampled_rows(height, tensor.group)
    w = np.concatenate([tensor.floats(first + r.start, first + r.stop) for r in rows])
    at = np.concatenate([np.arange(r.start, r.stop) for r in rows])
    gradients, inputs = stats.gradients[:, at], stats.inputs
    costs = np.zeros(len(types))
    for i, type in enumerate(types):
        method = covering(store.method, type)
        error = type.dequantize(method.quantize(w, type, prepared, threads=1)) - w
        effects = np.einsum("tr,tr->t", gradients, inputs @ error.T)
        costs[i] = np.mean(np.square(effects, dtype=np.float64)) / 2 * height / len(at)
    return costs


def _head_costs(
    store: RowsStore, planned: PlannedTensor, types: Sequence[BlockType]
) -> list[float]:
    """The head's error acts on the logits directly, so all its rows count.

    They are rounded as llama-quantize does; that the method in use loses less is seen on a sample.
    """
    tensor = store.tensors[planned.name]
    stats, prepared = store.prepared(planned.name)
    head = HeadCost(tensor, stats.inputs)
    sample = _sample(stats, tensor)

    def cost(type: BlockType) -> float:
        if planned.as_type(type, "tried").copied:
            return 0.0
        method = covering(store.method, type)

        def plain(w: F32) -> F32:
            return type.dequantize(type.quantize(w, prepared.importance, threads=1)) - w

        by_method = type.dequantize(method.quantize(sample.w, type, prepared, threads=1)) - sample.w
        gain = proxy(by_method, sample.hessian) / max(proxy(plain(sample.w), sample.hessian), 1e-30)
        logits = head.cost(lambda start, stop: plain(tensor.floats(start, stop)))
        return gain * logits + _embedding_cost(stats, by_method)

    return [cost(type) for type in types]


class _Sample(NamedTuple):
    """Rows of the head f32[n, C], and the second moments of its inputs f32[C, C]."""

    w: F32
    hessian: F32


def _sample(stats: TensorStatistics, tensor: TensorSource) -> _Sample:
    """The rows of sampled tokens, ascending, if the head is the embedding table; else some."""
    group = tensor.group
    if stats.embedded is not None:
        wanted = np.unique(stats.embedded).tolist()
    else:
        wanted = list(range(0, tensor.n_rows, max(1, tensor.n_rows // HEAD_ROWS)))
    rows = [tensor.floats(r // group * group, r // group * group + group)[r % group]
            for r in wanted]  # fmt: skip
    return _Sample(np.stack(rows), stats.hessian)


def _embedding_cost(stats: TensorStatistics, errors: F32) -> float:
    """What `errors` of the rows of sampled tokens cost where these tokens are read."""
    if stats.embedded is None or stats.embedded_gradients is None:
        return 0.0
    places = np.unique(stats.embedded, return_inverse=True)[1]
    effects = np.einsum("tc,tc->t", stats.embedded_gradients, errors[places])
    return float(np.mean(np.square(effects, dtype=np.float64)) / 2)


def sampled_rows(height: int, group: int) -> list[range]:
    """Runs of rows spread over a matrix, beginning and ending at multiples of `group`."""
    if height <= SAMPLED_ROWS or group >= SAMPLED_ROWS:
        return [range(height)]
    length = max(1, SAMPLED_ROWS // RUNS // group) * group
    units = height // group
    starts = {k * units // RUNS * group for k in range(RUNS)}
    return [range(s, min(height, s + length)) for s in sorted(starts)]
