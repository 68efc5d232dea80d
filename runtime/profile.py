"""Where the time of runs goes: per kernel, per layer, and at barriers.

Every thread notes its cycle counter behind every operation (kernels/execute.py); the notes of all
runs are summed up. An operation's time is the mean over the threads, so that operations and
barriers together are the time of the runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ggq.errors import GGQError
from ggq.runtime.kernels import execute
from ggq.runtime.tables import aligned_table
from ggq.runtime.work import BARRIER, Work, attended, touched

I64 = npt.NDArray[np.int64]
WAKING = "waking"


@dataclass(frozen=True)
class Line:
    """A kernel or a layer: how often it ran, its seconds, what it read and computed in them."""

    name: str
    calls: int
    seconds: float
    nbytes: int = 0
    operations: int = 0

    @property
    def gb_per_second(self) -> float:
        """10^9 bytes of weights and KV cache per second."""
        return self.nbytes / self.seconds / 1e9 if self.seconds else 0.0

    @property
    def gops(self) -> float:
        """10^9 multiplications and additions per second."""
        return self.operations / self.seconds / 1e9 if self.seconds else 0.0


class _Clock:
    """Ties the cycle counter to seconds, over all the time from its start to its stop."""

    def __init__(self) -> None:
        self._start = self._now()
        self._stop: tuple[float, int] | None = None
        if not self._start[1]:
            raise GGQError("this processor has no cycle counter that programs may read")

    @staticmethod
    def _now() -> tuple[float, int]:
        cycles = np.zeros(1, np.int64)
        execute.read_cycles(cycles.ctypes.data)
        return time.perf_counter(), int(cycles[0])

    def stop(self) -> None:
        self._stop = self._now()

    @property
    def seconds_per_cycle(self) -> float:
        seconds, cycles = self._stop or self._now()
        return (seconds - self._start[0]) / max(cycles - self._start[1], 1)


class PhaseProfile:
    """The runs of one phase: `runs`, and the `tokens` they were about."""

    def __init__(self, work: list[Work], threads: int, clock: _Clock) -> None:
        self.runs = self.tokens = self._lasted = 0
        self._clock = clock
        self._work = [*work, Work(BARRIER, None)]  # every run ends with a barrier
        n = len(self._work)
        self.stamps: I64 = np.zeros((threads, n + 1), np.int64)
        self._cycles = np.zeros((threads, n), np.int64)
        self._waking = np.zeros(threads, np.int64)
        self._bytes = np.zeros(n, np.int64)
        self._operations = np.zeros(n, np.int64)
        fields = (
            "weight_bytes position_bytes window run_ops token_ops pair_ops experts used".split()
        )
        self._amounts = [
            np.array([getattr(w, name) for w in self._work], np.int64) for name in fields
        ]

    def add(self, tokens: int, positions: int) -> None:
        """Count the run that `stamps` are of, with `positions` in the cache at its end."""
        self.runs += 1
        self.tokens += tokens
        self._cycles += np.diff(self.stamps, axis=1)
        lasted = self.stamps[:, -1] - self.stamps[:, 0]
        self._lasted += int(lasted.max())
        self._waking += lasted.max() - lasted
        weights, per_position, window, per_run, per_token, per_pair, experts, used = self._amounts
        self._bytes += np.rint(weights * touched(tokens, experts, used)).astype(np.int64)
        self._bytes += per_position * np.minimum(window, positions)
        self._operations += per_run + per_token * tokens
        self._operations += per_pair * attended(tokens, positions, window)

    @property
    def threads(self) -> int:
        """Threads that shared the work."""
        return len(self._cycles)

    @property
    def seconds(self) -> float:
        """Time of all runs."""
        return self._lasted * self._clock.seconds_per_cycle

    def kernels(self) -> list[Line]:
        """A line for each kernel, the slowest first; then barriers, and threads waking up."""
        lines = self._lines([w.kernel for w in self._work])
        found = sorted(lines.values(), key=lambda line: -line.seconds)
        found.sort(key=lambda line: line.name == BARRIER)
        waking = float(self._waking.mean()) * self._clock.seconds_per_cycle
        return [*found, Line(WAKING, self.runs, waking)]

    def layers(self) -> list[Line]:
        """A line for each layer, barriers included; "-1" is what belongs to none."""
        names = [-1 if w.layer is None else w.layer for w in self._work]
        lines = self._lines(map(str, names))
        return sorted(lines.values(), key=lambda line: int(line.name))

    def barrier_seconds(self) -> list[float]:
        """Seconds every thread waited at barriers."""
        at = [k for k, w in enumerate(self._work) if w.kernel == BARRIER]
        cycles = self._cycles[:, at].sum(axis=1)
        return [float(c) * self._clock.seconds_per_cycle for c in cycles]

    def _lines(self, names: Iterable[str]) -> dict[str, Line]:
        places: dict[str, list[int]] = {}
        for k, name in enumerate(names):
            places.setdefault(name, []).append(k)
        mean = self._cycles.mean(axis=0) * self._clock.seconds_per_cycle
        return {
            name: Line(
                name, self.runs * len(at), float(mean[at].sum()),
                int(self._bytes[at].sum()), int(self._operations[at].sum()),
            )
            for name, at in places.items()
        }  # fmt: skip

    def table(self) -> list[str]:
        """The kernels, the threads' waiting, and the layers, as lines of text."""
        total = self.seconds or 1.0
        head = ["kernel", "calls", "ms", "%", "GB/s", "GOPS"]
        rows = [head, *(_row(line, total, line.name) for line in self.kernels())]
        waits = ", ".join(
            f"thread {k} {1e3 * s:.2f} ms ({100 * s / total:.1f} %)"
            for k, s in enumerate(self.barrier_seconds())
        )
        names = {"-1": "none"}
        layers = [["layer", *head[1:]]]
        layers += [_row(e, total, names.get(e.name, e.name)) for e in self.layers()]
        return [*aligned_table(rows), f"waiting at barriers: {waits}", *aligned_table(layers)]


def _row(line: Line, total: float, name: str) -> list[str]:
    return [
        name, f"{line.calls:,}", f"{1e3 * line.seconds:.3f}", f"{100 * line.seconds / total:.1f}",
        f"{line.gb_per_second:.1f}" if line.nbytes else "",
        f"{line.gops:.0f}" if line.operations else "",
    ]  # fmt: skip


class Profile:
    """All runs of a session while it was profiled; `phases` by name: prefill, decode, ...

    `str(profile)` is the report `ggq-run --profile` prints.
    """

    def __init__(self, threads: int) -> None:
        self.phases: dict[str, PhaseProfile] = {}
        self._threads = threads
        self._clock = _Clock()

    def of(self, phase: str, work: Callable[[], list[Work]]) -> PhaseProfile:
        """The profile of a phase, whose steps `work` tells when it is new."""
        if phase not in self.phases:
            self.phases[phase] = PhaseProfile(work(), self._threads, self._clock)
        return self.phases[phase]

    def stop(self) -> None:
        """No more runs will be added."""
        self._clock.stop()

    def __str__(self) -> str:
        lines = []
        for name, phase in self.phases.items():
            many = "s" if phase.runs != 1 else ""
            lines.append(
                f"profile of {name}: {phase.tokens:,} tokens in {phase.runs:,} run{many}, "
                f"{1e3 * phase.seconds:.2f} ms on {phase.threads} threads"
            )
            lines += [*phase.table(), ""]
        return "\n".join(lines).rstrip()
