"""The three stages of a conversion, side by side: reading, arithmetic, writing; and who waited.

Each stage works while the others do; the one that is at work nearly all the time is the limit.
"""

from __future__ import annotations

from dataclasses import dataclass

from ggq.clock import Clock


@dataclass(frozen=True)
class Load:
    """Seconds each stage was at work, of `seconds` in all; arithmetic is a thread's average."""

    reading: float
    arithmetic: float
    writing: float
    seconds: float
    threads: int

    @property
    def limit(self) -> str:
        """The stage that was at work longest."""
        shares = self.shares()
        return max(shares, key=lambda name: shares[name])

    def shares(self) -> dict[str, float]:
        """Stage -> part of the time it was at work, 0..1."""
        total = max(self.seconds, 1e-9)
        times = {
            "reading": self.reading,
            "arithmetic": self.arithmetic,
            "writing": self.writing,
        }
        return {name: min(time / total, 1.0) for name, time in times.items()}

    def sentence(self) -> str:
        """Which stage was the limit, and how busy each one was."""
        cure = {
            "reading": "a faster source disk would help",
            "arithmetic": "more cores would help",
            "writing": "a faster output disk would help",
        }[self.limit]
        shares = self.shares()
        first, *others = sorted(shares, key=lambda name: -shares[name])
        percent = {name: f"{100 * share:.0f} %" for name, share in shares.items()}
        of_threads = f" ({self.threads} threads)" if self.threads > 1 else ""
        named = {"arithmetic": f"arithmetic{of_threads}"}
        rest = ", ".join(f"{named.get(name, name)} {percent[name]}" for name in others)
        return (
            f"{named.get(first, first)} was the limit, at work {percent[first]} of"
            f" {self.seconds:.1f} s, {rest}; {cure}"
        )


class Stages:
    """The clocks of a running conversion."""

    def __init__(self, threads: int, writing: Clock) -> None:
        self.threads = threads
        self.reading, self.arithmetic, self.writing = Clock(), Clock(), writing

    def load(self, seconds: float) -> Load:
        """What they show after `seconds` in all."""
        return Load(
            self.reading.seconds,
            self.arithmetic.thread_seconds / self.threads,
            self.writing.seconds,
            seconds,
            self.threads,
        )
