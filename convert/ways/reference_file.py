"""The model that is converted, as a GGUF file that can be run."""

from __future__ import annotations

from pathlib import Path

from ggq.convert.imatrix import Imatrix
from ggq.convert.mixtures.plan import Plan, make_plan
from ggq.convert.mixtures.presets import preset
from ggq.convert.mixtures.recipe import Options
from ggq.convert.sources.tensor_source import Source
from ggq.convert.writing.encoders import Encoder
from ggq.convert.writing.output_metadata import output_metadata
from ggq.convert.writing.pipeline import convert


def reference_file(source: Source, folder: Path, threads: int) -> Path:
    """The source's own file; of a checkpoint, a file of the same weights in `folder`."""
    first = source.files[0]
    if not source.is_checkpoint and first.suffix == ".gguf":
        return first
    path = folder / "reference.gguf"
    if not path.exists():
        infos = [tensor.info for tensor in source.tensors]
        plan = make_plan(source.metadata, infos, preset("COPY"), Options())
        write_candidate(source, plan, path, Encoder(), threads)
    return path


def write_candidate(
    source: Source,
    plan: Plan,
    path: Path,
    encoder: Encoder,
    threads: int,
    imatrix: Imatrix | None = None,
) -> None:
    """Write a file to be measured, with no keys of the run."""
    infos = [tensor.info for tensor in source.tensors]
    metadata = output_metadata(source.metadata, plan.preset, infos)
    convert(source, plan, metadata, path, imatrix=imatrix, encoder=encoder, threads=threads)
