"""The programs that are compared: each measures one case in a process of its own."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.rows import IK, LLAMA, OPENVINO, TRANSFORMERS, WHEEL, Case

HERE = Path(__file__).resolve().parent
SCRIPTS = {
    OPENVINO: "peer_openvino.py", WHEEL: "peer_xllamacpp.py", TRANSFORMERS: "peer_transformers.py",
}  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """How often a run is repeated, with how many threads, and whether one goes before."""

    threads: int
    repetitions: int
    warm_up: bool


@dataclass(frozen=True)
class Figure:
    """Tokens per second, and what else the program tells."""

    speed: float
    version: str
    told: dict[str, Any]


class NotMeasuredError(Exception):
    """A program that could not measure."""


def ggq_bench(program: Path, model: Path, case: Case, settings: Settings) -> Figure:
    """The installed ggq-bench."""
    command = [str(program), str(model), *_lengths(case), *_common(settings)]
    told = _json([*command, *([] if settings.warm_up else ["--no-warmup"])])[0]
    return Figure(told["avg_ts"], told["build_commit"], told)


def llama_bench(
    program: Path, model: Path, case: Case, settings: Settings, args: tuple[str, ...]
) -> Figure:
    """A native llama-bench, llama.cpp's own or ik_llama.cpp's."""
    command = [str(program), "-m", str(model), *_lengths(case), *_common(settings), *args]
    told = _json([*command, *([] if settings.warm_up else ["--no-warmup"])])[0]
    return Figure(told["avg_ts"], f"{told['build_commit']} ({told['build_number']})", told)


def scripted(
    engine: str, python: Path, model: Path, case: Case, settings: Settings, args: tuple[str, ...]
) -> Figure:
    """One of the scripts beside this file, run by a Python that has the engine."""
    if case.n_depth:
        raise NotMeasuredError(f"{engine} is not measured at depth")
    command = [str(python), str(HERE / SCRIPTS[engine]), str(model), str(settings.threads)]
    command += [str(settings.repetitions), str(case.n_prompt), str(case.n_gen), *args]
    told = _json(command)
    return Figure(sum(told["samples_ts"]) / len(told["samples_ts"]), told["version"], told)


def measure(
    engine: str, program: Path, model: Path, case: Case, settings: Settings, args: tuple[str, ...]
) -> Figure:
    """A case with any of the peers. Raises NotMeasuredError."""
    if engine in (LLAMA, IK):
        if engine == IK and not settings.warm_up:
            args, settings = (*args, "-w", "0"), Settings(settings.threads, 1, True)
        return llama_bench(program, model, case, settings, args)
    return scripted(engine, program, model, case, settings, args)


def _lengths(case: Case) -> list[str]:
    depth = ["-d", str(case.n_depth)] if case.n_depth else []
    return ["-p", str(case.n_prompt), "-n", str(case.n_gen), *depth]


def _common(settings: Settings) -> list[str]:
    return ["-t", str(settings.threads), "-r", str(settings.repetitions), "-o", "json"]


def _json(command: list[str]) -> Any:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        if done.returncode == 0:
            return json.loads(done.stdout)
    except json.JSONDecodeError:
        pass
    last = (done.stderr.strip() or "no output").splitlines()[-1]
    raise NotMeasuredError(f"{Path(command[0]).name} ended with {done.returncode}: {last}")
