"""The passes forward and back over the sections of a model, each section resumable."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ggq.convert.calibrate.batch import Array, Batch, Indices, Watch
from ggq.convert.calibrate.calibration import embedding_file, inputs_file, outputs_file
from ggq.convert.calibrate.head import Head
from ggq.convert.calibrate.moments import (
    MEAN,
    Moments,
    Outputs,
    key_of,
    mean_moments,
    mean_outputs,
)
from ggq.convert.calibrate.operations import Embed
from ggq.convert.calibrate.program import Program, Section
from ggq.convert.calibrate.sums import Flags, OutputSums, Sums
from ggq.convert.calibrate.weights import F32, Weights
from ggq.convert.calibrate.work_files import Carried, replacing

Progress = Callable[[float], None]

BATCH = 2048  # tokens that go through a section together, about
BATCH_BYTES = 1 << 30  # and what they may take, unless one sequence alone takes more
SAMPLE_BYTES = 1 << 28  # of one matrix' gradients that are kept, at most
SEED = 0
_COPIES = 3  # of every value: itself, what an operation keeps, its gradient


class _Moments(Watch):
    """Sums moments under a name, which the files have them by; `positions` of a sequence."""

    name: str

    def __init__(self, positions: int) -> None:
        self._positions = positions
        self._sums: dict[tuple[str, int | None], Sums] = {}
        self._kept: dict[str, list[Array]] = {}

    def _add(
        self, tensor: str, expert: int | None, x: Array, tokens: Indices | None,
        squares: Array | None = None,
    ) -> None:  # fmt: skip
        if (tensor, expert) not in self._sums:
            self._sums[tensor, expert] = Sums(x.shape[1])
        self._sums[tensor, expert].add(x, self._is_first(x, tokens), squares)

    def _is_first(self, x: Array, tokens: Indices | None) -> Flags:
        """[n]: which of the tokens is the first of its sequence."""
        at = np.arange(len(x)) if tokens is None else tokens
        first: Flags = at % self._positions == 0
        return first

    def save(self, path: Path) -> None:
        """Write everything watched; of stacks also the mean of their experts."""
        arrays = dict(self._arrays())
        with replacing(path) as file:
            np.savez(file, allow_pickle=False, **arrays)

    def _arrays(self) -> Iterator[tuple[str, npt.NDArray[Any]]]:
        """(name in the file, values)."""
        stacks: dict[str, list[Moments]] = {}
        for tensor, expert in list(self._sums):
            moments = self._sums.pop((tensor, expert)).moments()
            yield from moments.arrays(key_of(tensor, expert), self.name)
            if expert is not None:
                stacks.setdefault(tensor, []).append(moments)
        for tensor, experts in stacks.items():
            yield from mean_moments(experts).arrays(key_of(tensor, MEAN), self.name)
        for key, parts in self._kept.items():
            yield key, np.concatenate(parts)


class _Inputs(_Moments):
    """Inputs of every site."""

    name = "gram"

    def inputs(
        self, tensor: str, x: Array, tokens: Indices | None = None, expert: int | None = None
    ) -> None:
        self._add(tensor, expert, x, tokens)


class _Outputs(_Moments):
    """Inputs weighted by gradients, and the sampled tokens; `sampled` are those of the batch."""

    name = "guided"
    sampled: Indices

    def __init__(self, positions: int) -> None:
        super().__init__(positions)
        self._outputs: dict[tuple[str, int | None], OutputSums] = {}

    def inputs(
        self, tensor: str, x: Array, tokens: Indices | None = None, expert: int | None = None
    ) -> None:
        kept = self.sampled if tokens is None else np.flatnonzero(np.isin(tokens, self.sampled))
        self._kept.setdefault(f"{key_of(tensor, expert)}/inputs", []).append(x[kept])

    def outputs(
        self, tensor: str, x: Array, squares: Array, sampled: Array,
        gradients: Array | None = None, tokens: Indices | None = None, expert: int | None = None,
    ) -> None:  # fmt: skip
        self._add(tensor, expert, x, tokens, squares)
        self._kept.setdefault(f"{key_of(tensor, expert)}/gradients", []).append(sampled)
        if gradients is None:
            return
        if (tensor, expert) not in self._outputs:
            self._outputs[tensor, expert] = OutputSums(gradients.shape[1])
        is_first = self._is_first(x, tokens)
        self._outputs[tensor, expert].add(x, gradients, squares, is_first)

    def _arrays(self) -> Iterator[tuple[str, npt.NDArray[Any]]]:
        yield from super()._arrays()
        stacks: dict[str, list[Outputs]] = {}
        for tensor, expert in list(self._outputs):
            outputs = self._outputs.pop((tensor, expert)).outputs()
            yield from outputs.arrays(key_of(tensor, expert))
            if expert is not None:
                stacks.setdefault(tensor, []).append(outputs)
        for tensor, experts in stacks.items():
            yield from mean_outputs(experts).arrays(key_of(tensor, MEAN))


class Passes:
    """Both passes of one text through one model; their files are in `folder`."""

    def __init__(
        self, program: Program, weights: Weights, tokens: npt.NDArray[np.int32], folder: Path,
        sample_tokens: int, progress: Progress | None,
    ) -> None:  # fmt: skip
        self._sections, self._weights, self._tokens = program.sections, weights, tokens
        self._folder, self._progress = folder, progress
        later = np.flatnonzero(np.arange(tokens.size) % tokens.shape[1])
        chosen = np.random.default_rng(SEED).permutation(later)[:sample_tokens]
        self._sampled = np.sort(chosen)
        self._work = self._done = 0.0

    def run(self, gradients: bool) -> None:
        """Every section whose statistics are not there yet."""
        costs = [self._cost(section) for section in self._sections]
        self._work = sum(costs) * (4 if gradients else 1)
        for number, section in enumerate(self._sections):
            if not inputs_file(self._folder, number).exists():
                self._forward(number, section)
            if not gradients:
                self._hidden(number).remove()
            self._advance(costs[number])
        if not gradients:
            return
        for number in range(len(self._sections) - 1, 0, -1):
            if not outputs_file(self._folder, number).exists():
                self._backward(number, self._sections[number])
                self._gradient(number + 1).remove()
                self._hidden(number).remove()
            self._advance(3 * costs[number])
        if not embedding_file(self._folder).exists():
            self._embedding(self._sections[0])
        self._gradient(1).remove()

    def _embedding(self, section: Section) -> None:
        """What the gradients of sampled tokens are at their rows of the table."""
        (embed,) = (op for op in section.operations if isinstance(op, Embed))
        parts = []
        for part in self._parts():
            first, last = np.searchsorted(self._sampled, [part.start, part.stop])
            kept = self._sampled[first:last] - part.start
            parts.append(self._gradient(1).read(part)[kept] * np.float32(embed.scale))
        arrays = {
            f"{embed.table}/ids": self._tokens.reshape(-1)[self._sampled],
            f"{embed.table}/gradients": np.concatenate(parts),
        }
        with replacing(embedding_file(self._folder)) as file:
            np.savez(file, allow_pickle=False, **arrays)

    def _forward(self, number: int, section: Section) -> None:
        """Moments of a section's inputs; what leaves it goes to a file."""
        watch, leaving = _Inputs(self._tokens.shape[1]), self._hidden(number + 1)
        if section.leaves is not None:
            leaving.create()
        tokens = self._tokens
        if section.enters is None:
            used, places = np.unique(tokens, return_inverse=True)
            weights = {name: self._weights.rows(name, used) for name in section.tensors}
            tokens = places.reshape(tokens.shape).astype(np.int32)
        else:
            weights = self._weights.read_all(section.tensors)
        for part in self._parts():
            x = None if section.enters is None else self._hidden(number).read(part)
            batch = self._batch(part, tokens, weights, watch)
            x = section.forward(batch, x)
            if x is not None:
                leaving.write(part, x)
        if section.leaves is not None:
            leaving.sync()
        watch.save(inputs_file(self._folder, number))

    def _backward(self, number: int, section: Section) -> None:
        """What gradients tell about a section's matrices; theirs where it begins go to a file."""
        watch, leaving = _Outputs(self._tokens.shape[1]), self._gradient(number)
        leaving.create()
        weights = self._weights.read_all(section.tensors)
        sampled = self._sampled_in(section)
        for part in self._parts():
            batch = self._batch(part, self._tokens, weights, watch)
            first, last = np.searchsorted(sampled, [part.start, part.stop])
            batch.sampled = watch.sampled = sampled[first:last] - part.start
            batch.random = np.random.default_rng([SEED, part.start])
            section.forward(batch, self._hidden(number).read(part))
            gradient = None if section.leaves is None else self._gradient(number + 1).read(part)
            leaving.write(part, section.backward(batch, gradient))
        leaving.sync()
        watch.save(outputs_file(self._folder, number))

    def _parts(self) -> Iterator[slice]:
        """The tokens of whole sequences, some at a time."""
        positions = self._tokens.shape[1]
        step = max(1, min(BATCH, BATCH_BYTES // self._token_bytes()) // positions) * positions
        for start in range(0, self._tokens.size, step):
            yield slice(start, min(start + step, self._tokens.size))

    def _token_bytes(self) -> int:
        """What a token takes in the widest section, on its way there and back."""
        widths = [
            sum(rows.cols for op in section.operations for rows in op.writes)
            for section in self._sections
            if not isinstance(section.operations[-1], Head)
        ]
        return _COPIES * 4 * max(widths)

    def _batch(
        self, part: slice, tokens: npt.NDArray[np.int32], weights: dict[str, F32], watch: Watch
    ) -> Batch:
        rows = tokens.reshape(-1)[part].reshape(-1, tokens.shape[1])
        return Batch(rows, weights, watch)

    def _sampled_in(self, section: Section) -> Indices:
        """The sampled tokens; of a head with a large vocabulary some of them."""
        last = section.operations[-1]
        rows = self._weights.shapes[last.weight][0] if isinstance(last, Head) else 1
        step = -(-4 * rows * len(self._sampled) // SAMPLE_BYTES)
        return self._sampled[:: max(1, step)]

    def _hidden(self, number: int) -> Carried:
        """What enters a section."""
        return self._carried("hidden", number)

    def _gradient(self, number: int) -> Carried:
        """The gradient of it."""
        return self._carried("gradient", number)

    def _carried(self, kind: str, number: int) -> Carried:
        rows = self._sections[number].enters if number < len(self._sections) else None
        path = self._folder / f"{kind}-{number:03d}.f32"
        return Carried(path, self._tokens.size, rows.cols if rows else 0)

    def _cost(self, section: Section) -> float:
        if section.enters is None:
            return 0.0
        return float(sum(np.prod(self._weights.shapes[name]) for name in section.tensors))

    def _advance(self, cost: float) -> None:
        self._done += cost
        if self._progress is not None:
            self._progress(self._done / self._work)
