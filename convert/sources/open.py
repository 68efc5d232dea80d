"""From what stands on the command line to a source: a directory, a GGUF file or a hub id."""

from __future__ import annotations

from pathlib import Path

from ggq.convert.sources.gguf_source import open_gguf
from ggq.convert.sources.model_dir import open_model_dir
from ggq.convert.sources.tensor_source import Source
from ggq.errors import NotFoundError, UsageError


def open_source(given: str, *, header_only: bool = False, name: str | None = None) -> Source:
    """The source called `given`: what exists on disk comes first, then the hub.

    `header_only` allows a GGUF file without tensor data; `name` becomes general.name.
    Raises NotFoundError, UsageError, and what the kinds of source raise.
    """
    path = Path(given)
    if given and path.is_dir():
        return open_model_dir(path, name=name)
    if given and path.exists():
        return _open_file(path, header_only, name)
    from ggq.convert.sources.hub import download, parse_hub_id

    hub_id = parse_hub_id(given)
    if hub_id is None:
        raise NotFoundError(
            f"{given}: there is no such file or directory, and it is no hub id ORG/NAME[@REVISION]"
        )
    return open_model_dir(download(hub_id), name=name or hub_id.name)


def _open_file(path: Path, header_only: bool, name: str | None) -> Source:
    if path.name == "config.json" or path.suffix in (".safetensors", ".bin", ".pt", ".pth"):
        raise UsageError(f"{path}: this is one file of a model; name its directory {path.parent}")
    source = open_gguf(path, header_only=header_only)
    if name is not None:
        from ggq.spec import ValueType

        source.metadata.set("general.name", name, ValueType.STRING)
    return source
