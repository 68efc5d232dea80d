"""The processes chat templates run in: one for each prompt, stopped by the system at its limits."""

from __future__ import annotations

import atexit
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

CPU_SECONDS = 0.5
MEMORY_BYTES = 256 << 20
WALL_SECONDS = 30
_SANDBOX = Path(__file__).with_name("chat_sandbox.py")

_ready: list[subprocess.Popen[bytes]] = []


def start_ahead() -> None:
    """Start the process of the next template now, so that it is ready when there is one."""
    if not _ready:
        _ready.append(_start())
        atexit.register(_end_unused)


def _end_unused() -> None:
    while _ready:
        with _ready.pop() as process:
            process.kill()


def render(template: str, context: dict[str, Any], max_characters: int) -> dict[str, str]:
    """What became of it: "text", or "refused" or "broken" with a reason."""
    request = {
        "template": template,
        "context": context,
        "cpu_seconds": CPU_SECONDS,
        "memory_bytes": MEMORY_BYTES,
        "max_characters": max_characters,
    }
    with _ready.pop() if _ready else _start() as process:
        try:
            out, err = process.communicate(json.dumps(request).encode(), WALL_SECONDS)
        except subprocess.TimeoutExpired:
            return {"broken": f"it ran for more than {WALL_SECONDS} seconds"}
        finally:
            process.kill()
    if process.returncode < 0:
        return {
            "broken": f"it wants more than {CPU_SECONDS} seconds of computing "
            f"or {MEMORY_BYTES >> 20} MB of memory"
        }
    if process.returncode:
        last = err.decode(errors="replace").strip().rpartition("\n")[2]
        return {"broken": last or f"it ended with code {process.returncode}"}
    answer: dict[str, str] = json.loads(out)
    return answer


def _start() -> subprocess.Popen[bytes]:
    # -P: nothing is imported from the folder of the script or the user's current one.
    command = [sys.executable, "-P", str(_SANDBOX)]
    pipe = subprocess.PIPE
    # Of a group of its own: Ctrl-C is not for it.
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, process_group=0)
