"""A model's name as people write it -> the file on this machine, fetched from the hub if need be.

    path.gguf                      a file
    org/name[:QUANT]               a repository of GGUF files; QUANT as in its file names
    hf.co/org/name[:QUANT]         the same, also https://huggingface.co/org/name
    hf://org/name[@rev]/file.gguf  one file of it

Which file a repository name means: llama.cpp common/download.cpp. Files land in the cache that
huggingface_hub, transformers and llama.cpp share.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from ggq.errors import NotFoundError, UsageError

FIRST_CHOICES = ("Q4_K_M", "Q8_0")
NOT_MODELS = ("mmproj", "imatrix", "mtp-", "eagle3-", "dflash-", "dspark-")
_HOSTS = re.compile(r"^(?:https?://)?(?:hf\.co|huggingface\.co)/")
_SHARD = re.compile(r"^(.+)-(\d{5})-of-(\d{5})\.gguf$")
_REPO = re.compile(r"^[\w.-]+/[\w.-]+$")


class HubName(NamedTuple):
    """A repository, and which of its files: by quantization or by name."""

    repo: str
    quant: str = ""
    file: str = ""
    revision: str | None = None


def find_model(name: str) -> Path:
    """The file that `name` means, fetched if it is on the hub. Raises NotFoundError."""
    if Path(name).exists():
        return Path(name)
    hub = None if name.endswith(".gguf") and "://" not in name else _parsed(name)
    if hub is None:
        raise NotFoundError(f"{name}: no such file, nor the form org/name[:QUANT] of a repository")
    return fetch(hub)


def hub_name(name: str) -> HubName:
    """Parse org/name[:QUANT] and its longer forms. Raises UsageError."""
    found = _parsed(name)
    if found is None:
        raise UsageError(f"{name!r} is not of the form org/name[:QUANT] (-hf)")
    return found


def fetch(name: HubName) -> Path:
    """Path of the (first) file of the model in the local cache. Raises NotFoundError."""
    from huggingface_hub import hf_hub_download

    files = _repository_files(name)
    wanted = [name.file] if name.file else with_shards(files, choose(files, name))
    try:
        paths = [hf_hub_download(name.repo, file, revision=name.revision) for file in wanted]
    except _hub_errors() as error:
        raise NotFoundError(f"{name.repo}/{wanted[0]}: {_reason(error)}") from error
    return Path(paths[0])


def choose(files: list[str], name: HubName) -> str:
    """The file `name` means among a repository's files. Raises NotFoundError listing them."""
    models = [file for file in files if _is_first_of_model(file)]
    for quant in [name.quant] if name.quant else FIRST_CHOICES:
        pattern = re.compile(re.escape(quant) + "[.-]", re.IGNORECASE)
        for file in models:
            if pattern.search(file):
                return file
    if models and not name.quant:
        return models[0]
    listed = ", ".join(models) or "none"
    what = f"file for {name.quant}" if name.quant else "GGUF file"
    raise NotFoundError(f"{name.repo} has no {what}; its models: {listed}")


def with_shards(files: list[str], first: str) -> list[str]:
    """`first` and, if it is a shard, the others of the same model, in order."""
    shard = _SHARD.match(first)
    if not shard:
        return [first]
    stem, _, count = shard.groups()
    return sorted(
        file for file in files if (m := _SHARD.match(file)) and (m[1], m[3]) == (stem, count)
    )


def _parsed(name: str) -> HubName | None:
    if name.startswith("hf://"):
        org, _, rest = name[5:].partition("/")
        repo, _, file = rest.partition("/")
        repo, _, revision = repo.partition("@")
        repo, _, quant = repo.partition(":")
        found = HubName(f"{org}/{repo}", quant, file, revision or None)
    else:
        repo, _, quant = _HOSTS.sub("", name).partition(":")
        repo, _, revision = repo.partition("@")
        found = HubName(repo, quant, revision=revision or None)
    return found if _REPO.match(found.repo) else None


def _is_first_of_model(file: str) -> bool:
    shard = _SHARD.match(file)
    base = file.rpartition("/")[2]
    other = any(word in base for word in NOT_MODELS)
    return file.endswith(".gguf") and not other and (shard is None or int(shard[2]) == 1)


def _repository_files(name: HubName) -> list[str]:
    """Names of all files of the repository; offline, of what is in the cache."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    if name.file:
        return []
    try:
        # not list_repo_files, which tries again for half a minute when there is no network
        info = HfApi().model_info(name.repo, revision=name.revision)
        return sorted(sibling.rfilename for sibling in info.siblings or [])
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise NotFoundError(f"{name.repo}: {_reason(error)}") from error
    except _hub_errors() as error:
        reason = _reason(error)
    try:
        folder = Path(snapshot_download(name.repo, revision=name.revision, local_files_only=True))
    except _hub_errors() as error:
        raise NotFoundError(
            f"{name.repo}: not in the cache, and not reachable: {reason}"
        ) from error
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def _hub_errors() -> tuple[type[Exception], ...]:
    """What huggingface_hub raises when the hub, or this machine's way to it, fails."""
    from huggingface_hub import errors

    return (OSError, errors.EntryNotFoundError, errors.HTTPError)  # type: ignore[attr-defined]


def _reason(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
