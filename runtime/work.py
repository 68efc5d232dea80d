"""What the steps of a program stand for: layer, bytes read, arithmetic."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ggq.blocks._frame import Frame
from ggq.reader import Tensor
from ggq.runtime.kernels import linear
from ggq.runtime.kernels._op import PRIVATE, Step
from ggq.runtime.kernels.panels import SHORTS

BARRIER = "barrier"
EVERYWHERE = 1 << 40  # a window no text fills


@dataclass(frozen=True)
class Work:
    """One step. `layer` is None before the first layer and behind the last.

    `weight_bytes` are read once a run; of `experts` only those that tokens use, `used` of each
    token, and for several tokens as many as even routing would touch. `position_bytes` of the KV
    cache are read for every position that is attended to, of which a token has at most `window`.
    Operations are multiplications and additions: `run_ops` with weights once a run, `token_ops`
    with weights for every token, `pair_ops` with the cache for every token and position;
    `number_bytes` is the size of the numbers that are multiplied.
    """

    kernel: str
    layer: int | None
    weight_bytes: int = 0
    position_bytes: int = 0
    window: int = EVERYWHERE
    run_ops: int = 0
    token_ops: int = 0
    pair_ops: int = 0
    experts: int = 1
    used: int = 1
    number_bytes: int = 4

    def bytes_read(self, tokens: int, positions: int) -> int:
        """Bytes a run over `tokens` reads that leaves so many positions in the cache."""
        weights = round(float(self.weight_bytes * touched(tokens, self.experts, self.used)))
        return weights + self.position_bytes * min(positions, self.window)

    def operations(self, tokens: int, positions: int) -> int:
        """Operations of a run over `tokens` that leaves so many positions in the cache."""
        pairs = int(attended(tokens, positions, self.window)) if self.pair_ops else 0
        return self.run_ops + self.token_ops * tokens + self.pair_ops * pairs


def touched(tokens: int, experts: Any, used: Any) -> Any:
    """Share of the experts that tokens use if each picks `used` of them evenly."""
    return 1 - (1 - used / experts) ** tokens


def attended(tokens: int, positions: int, window: Any) -> Any:
    """Positions attended to by the last `tokens` of `positions`, summed up; windows may be many."""
    first = positions - tokens + 1  # the first token sees so many, itself among them
    growing = np.clip(window - first + 1, 0, tokens)
    return growing * (2 * first + growing - 1) // 2 + (tokens - growing) * window


def work_of(
    steps: Iterable[Step], tensors: Mapping[str, Tensor], position_bytes: int, exact: bool
) -> list[Work]:
    """A Work for every step; `position_bytes` of the cache hold a position in one layer.

    A step belongs to the tensors whose addresses its description holds, and is of their layer;
    one without tensors is of the layer of the step before.
    """
    by_address = {tensor.address: tensor for tensor in tensors.values()}
    works: list[Work] = []
    layer: int | None = None
    used_experts = 1
    for step in steps:
        used_experts = step.words.get("used", used_experts)  # the router's choice comes first
        used = [by_address[word] for word in step.words.values() if word in by_address]
        for tensor in used:
            layer = layer_of(tensor.name)
        matrices = [tensor for tensor in used if len(tensor.shape) > 1]
        works.append(_work(step, layer, matrices, position_bytes, used_experts, exact))
    return works


def layer_of(tensor: str) -> int | None:
    """Layer a tensor's name tells, blk.<layer>."""
    found = re.match(r"blk\.(\d+)\.", tensor)
    return int(found[1]) if found else None


def _work(
    step: Step, layer: int | None, matrices: list[Tensor], position_bytes: int, used: int,
    exact: bool,
) -> Work:  # fmt: skip
    if step.op is None:
        return Work(BARRIER, layer)
    name, words = step.op.kernel.name, step.words
    kind = name.partition(".")[0]
    if kind == "attend":
        return Work(
            name, layer, position_bytes=position_bytes, window=words.get("window") or EVERYWHERE,
            pair_ops=4 * words["n_head"] * words["dims"],
            number_bytes=2 if SHORTS.name in name.split(".") else 4,
        )  # fmt: skip
    if kind == "embed" or not matrices:
        return Work(name, layer)
    if words.get("width", 1) > 1 and "_rows" in name:  # told at the experts with many tokens
        return Work(name, layer)
    once = bool(words.get("x", 0) & PRIVATE)  # one token's activations, in every thread's memory
    experts = matrices[0].shape[0] if len(matrices[0].shape) > 2 else 1
    used = min(used, experts)
    ops = sum(2 * tensor.shape[-2] * tensor.shape[-1] * used for tensor in matrices)
    return Work(
        name, layer, sum(tensor.nbytes for tensor in matrices),
        run_ops=ops if once else 0, token_ops=0 if once else ops, experts=experts, used=used,
        number_bytes=_number_bytes(linear.frame_of(matrices[0].type, exact), name),
    )  # fmt: skip


def _number_bytes(frame: Frame, kernel: str) -> int:
    """Bytes of the numbers a kernel multiplies; vectors meet singles where not bytes."""
    in_tiles = kernel.startswith("matmat") or "_panels" in kernel
    return frame.tile_number if in_tiles or frame.activation_block else 4
