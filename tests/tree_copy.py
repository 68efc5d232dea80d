"""A copy of the source tree that a test may change, and Python code run against it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def copy_tree(target: Path) -> Path:
    """The packages of the project, copied into `target`."""
    for name in ("ggq", "convert", "runtime"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, target / name, symlinks=True, ignore=ignored)
    return target


def run_in(tree: Path, code: str, *arguments: str, **environment: str) -> str:
    """What Python code that imports from `tree` prints."""
    done = subprocess.run(
        [sys.executable, "-P", "-W", "error", "-c", code, *arguments],
        env=os.environ | {"PYTHONPATH": str(tree)} | environment,
        cwd=tree.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
