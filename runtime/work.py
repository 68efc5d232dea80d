"""What the steps of a program stand for: layer, bytes read, arithmetic."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ggq.reader import Tensor
from ggq.runtime.kernels._op import Step

BARRIER = "barrier"


@dataclass(frozen=True)
class Work:
    """One step. `layer` is None before the first layer and behind the last.

    `weight_bytes` are read once a run. `token_ops` and `run_ops` are multiplications and additions
    with weights per token and per run. `position_bytes` are read of the KV cache per position that
    is attended to, of which there are at most `window`.
    """

    kernel: str
    layer: int | None
    weight_bytes: int = 0
    token_ops: int = 0
    run_ops: int = 0
    position_bytes: int = 0
    window: int = 1 << 62

    def bytes_read(self, positions: int) -> int:
        """Bytes of weights and cache one run over one token reads, `positions` in the cache."""
        return self.weight_bytes + self.position_bytes * min(positions, self.window)

    def operations(self, tokens: int) -> int:
        """Multiplications and additions with weights in a run over so many tokens."""
        return self.run_ops + self.token_ops * tokens


def work_of(
    steps: Iterable[Step], tensors: Mapping[str, Tensor], position_bytes: int
) -> list[Work]:
    """A Work for every step; `position_bytes` of the cache hold a position in one layer.

    A step belongs to the tensors whose addresses its description holds, and is of their layer;
    one without tensors is of the layer of the step before.
    """
    by_address = {tensor.address: tensor for tensor in tensors.values()}
    works: list[Work] = []
    layer: int | None = None
    for step in steps:
        words = step.words
        used = [by_address[word] for word in words.values() if word in by_address]
        for tensor in used:
            layer = layer_of(tensor.name)
        works.append(_work(step, words, layer, used, position_bytes))
    return works


def layer_of(tensor: str) -> int | None:
    """Layer a tensor's name tells, blk.<layer>."""
    found = re.match(r"blk\.(\d+)\.", tensor)
    return int(found[1]) if found else None


def _work(
    step: Step, words: dict[str, int], layer: int | None, used: list[Tensor], position_bytes: int
) -> Work:
    if step.op is None:
        return Work(BARRIER, layer)
    name = step.op.kernel.name
    kind = name.partition(".")[0]
    if kind == "attend":
        window = words.get("window") or 1 << 62
        return Work(name, layer, position_bytes=position_bytes, window=window)
    if kind not in ("matvec", "matmat"):
        return Work(name, layer)
    matrices = [tensor for tensor in used if len(tensor.shape) > 1]
    nbytes = sum(tensor.nbytes for tensor in matrices)
    ops = sum(2 * tensor.shape[0] * tensor.shape[1] for tensor in matrices)
    if kind == "matvec":
        return Work(name, layer, nbytes, run_ops=ops)
    return Work(name, layer, nbytes, token_ops=ops)
