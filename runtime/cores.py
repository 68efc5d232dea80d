"""How many threads this process can keep busy: its cores, and the share of them it may use."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Physical cores this process may run on, no more than its quota of processor time; 1 at least.

    The two halves of a hyper-threaded core count once.
    """
    cores = _physical_cores()
    quota = _quota()
    return cores if quota is None else max(1, min(cores, int(quota)))


def _physical_cores() -> int:
    try:
        allowed = os.sched_getaffinity(0)
    except AttributeError:
        return os.cpu_count() or 1
    cores = set()
    for cpu in allowed:
        try:
            with open(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") as file:
                cores.add(file.read())
        except OSError:
            return len(allowed)
    return len(cores)


def _quota() -> float | None:
    """Cores' worth of time that the control groups of this process grant; None for no limit."""
    try:
        with open("/proc/self/cgroup") as file:
            groups = dict(line.rstrip("\n").split(":", 2)[1:] for line in file)
    except (OSError, ValueError):
        return None
    limits = _limits(_CGROUPS, groups.get("", "/"), _of_version_2)
    for controllers, group in groups.items():
        if "cpu" in controllers.split(","):
            limits += _limits(_CGROUPS / "cpu", group, _of_version_1)
    return min(limits, default=None)


def _limits(root: Path, group: str, limit_of: Callable[[Path], float | None]) -> list[float]:
    """What a group and those around it grant; inside a container its own group is the root."""
    own = root / group.strip("/")
    around = [own, *own.parents] if own.is_dir() else [root]
    found = (limit_of(each) for each in around if each.is_relative_to(root))
    return [limit for limit in found if limit is not None]


def _of_version_2(group: Path) -> float | None:
    try:
        quota, period = (group / "cpu.max").read_text().split()
        return int(quota) / int(period)
    except (OSError, ValueError):  # no such file, or "max"
        return None


def _of_version_1(group: Path) -> float | None:
    try:
        quota = int((group / "cpu.cfs_quota_us").read_text())
        return quota / int((group / "cpu.cfs_period_us").read_text()) if quota > 0 else None
    except (OSError, ValueError):
        return None
