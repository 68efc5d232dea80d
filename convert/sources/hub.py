"""Models of the Hugging Face hub, fetched into the cache that every tool shares.

Only files a conversion needs are fetched, none of them a pickle or code. What was downloaded is
compared with the checksums the hub states; what was in the cache already is taken as it is.
"""

from __future__ import annotations

import hashlib
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggq.errors import (
    DISK_FULL_ERRNOS,
    DownloadError,
    HostileNameError,
    MissingFileError,
    NotFoundError,
    PickleError,
)

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_HUB_ID = re.compile(rf"({_PART}/{_PART})(?:@([A-Za-z0-9][A-Za-z0-9._/-]{{0,199}}))?")
_WANTED = re.compile(
    r"model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json|(generation_)?config\.json|"
    r"tokenizer\.model|tokenizer\.json|tokenizer_config\.json|special_tokens_map\.json|"
    r"added_tokens\.json|chat_template\.(json|jinja)|vocab\.json|merges\.txt"
)
_PICKLE = re.compile(r"[^/]*\.(bin|pt|pth|ckpt|pkl)")


@dataclass(frozen=True)
class HubId:
    """ORG/NAME[@REVISION]."""

    repo: str
    revision: str | None = None

    @property
    def name(self) -> str:
        """The part after the slash."""
        return self.repo.partition("/")[2]

    def __str__(self) -> str:
        return self.repo if self.revision is None else f"{self.repo}@{self.revision}"


def parse_hub_id(text: str) -> HubId | None:
    """The hub id `text` stands for, or None if it cannot be one."""
    found = _HUB_ID.fullmatch(text)
    if found is None or ".." in text or "--" in found[1]:
        return None
    return HubId(found[1], found[2])


def download(hub_id: HubId) -> Path:
    """The folder of the snapshot in the cache, with all files a conversion needs.

    Without connection, what the cache has is used. Raises NotFoundError and its subclasses,
    PickleError, MissingFileError, HostileNameError.
    """
    import huggingface_hub
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    listing = _listing(hub_id)
    if listing is None:
        return _cached(hub_id)
    names = wanted_files([file.rfilename for file in listing.siblings], hub_id)
    new = [
        file
        for file in listing.siblings
        if file.rfilename in names and not _in_cache(hub_id.repo, file.rfilename, listing.sha)
    ]
    try:
        folder = Path(
            huggingface_hub.snapshot_download(
                hub_id.repo, revision=hub_id.revision, allow_patterns=[_literal(n) for n in names]
            )
        )
    except Exception as error:  # whatever the HTTP library below the hub's library raises
        if isinstance(error, OSError) and error.errno in DISK_FULL_ERRNOS:
            raise
        raise DownloadError(f"{hub_id}: the download failed: {_first_line(error)}") from error
    if folder.name != listing.sha:
        raise DownloadError(f"{hub_id}: the model changed during the download; try again")
    for file in new:
        _verify(folder / file.rfilename, file)
    return folder


def wanted_files(names: list[str], hub_id: HubId) -> list[str]:
    """Those of a repository's files that a conversion reads.

    Raises HostileNameError, PickleError, MissingFileError.
    """
    for name in names:
        parts = name.split("/")
        if not name.isprintable() or "\\" in name or {"", ".", ".."} & set(parts):
            raise HostileNameError(
                f"{hub_id}: the repository lists a file called {name!r}, which would be written "
                "outside the cache; do not use this repository"
            )
    wanted = sorted(name for name in names if _WANTED.fullmatch(name))
    if any(name.endswith(".safetensors") for name in wanted):
        return wanted
    if pickle := next(filter(_PICKLE.fullmatch, names), None):
        raise PickleError(
            f"{hub_id}: the weights are pickled ({pickle}), and reading a pickle can run code; "
            "look for a revision with safetensors, such as @refs/convert/safetensors"
        )
    if gguf := next((name for name in names if name.endswith(".gguf")), None):
        raise MissingFileError(
            f"{hub_id}: the repository holds GGUF files such as {gguf} and no checkpoint; "
            "download one of them and give its path"
        )
    raise MissingFileError(f"{hub_id}: the repository holds no model*.safetensors")


def _listing(hub_id: HubId) -> Any:
    """What the hub says about the model, or None when it cannot be reached."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
    from huggingface_hub.errors import RevisionNotFoundError as NoRevision

    try:
        return HfApi().model_info(hub_id.repo, revision=hub_id.revision, files_metadata=True)
    except GatedRepoError:
        raise NotFoundError(
            f"{hub_id}: the model is gated: accept its terms on the hub and set HF_TOKEN"
        ) from None
    except NoRevision:
        raise NotFoundError(f"{hub_id}: the model has no such revision") from None
    except RepositoryNotFoundError:
        raise NotFoundError(
            f"{hub_id}: there is no such directory, and no such model on the hub; "
            "for a private model set HF_TOKEN"
        ) from None
    except Exception:  # no connection, offline mode, a server in trouble: the cache may help
        return None


def _cached(hub_id: HubId) -> Path:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(hub_id.repo, "config.json", revision=hub_id.revision)
    if not isinstance(found, str):
        raise NotFoundError(
            f"{hub_id}: the hub cannot be reached, and the model is not in the cache"
        )
    return Path(found).parent


def _in_cache(repo: str, name: str, commit: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(repo, name, revision=commit), str)


def _verify(path: Path, stated: Any) -> None:
    """Compare a downloaded file with the hub's checksum. Raises DownloadError and removes it."""
    size = path.stat().st_size
    if stated.lfs is not None:
        with path.open("rb") as file:
            found, wanted = hashlib.file_digest(file, "sha256").hexdigest(), stated.lfs.sha256
    else:
        blob = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        blob.update(path.read_bytes())
        found, wanted = blob.hexdigest(), stated.blob_id
    if wanted is not None and found != wanted:
        path.resolve().unlink()
        path.unlink(missing_ok=True)
        raise DownloadError(
            f"{path.name}: {size:,} bytes with checksum {found} came, but the hub states {wanted}; "
            "the file was removed, try again"
        )


def _literal(name: str) -> str:
    """`name` as a pattern that matches nothing else."""
    return re.sub(r"([*?[])", r"[\1]", name)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
