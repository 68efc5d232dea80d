"""A directory that gets its name only when it is complete."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ggq.errors import NotFoundError, UsageError

# What an export holds; a directory with anything else in it is not replaced.
_OURS = re.compile(
    r"(generation_)?config\.json|model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?|"
    r"tokenizer(_config)?\.json|tokenizer\.model|special_tokens_map\.json|added_tokens\.json|"
    r"chat_template\.(jinja|json)|vocab\.json|merges\.txt"
)


@contextmanager
def replacing_dir(target: Path) -> Iterator[Path]:
    """A fresh folder beside `target` that takes its place when the block ends well.

    Nothing remains of it otherwise. Raises UsageError when `target` is there and is no earlier
    export, NotFoundError when its parent is not there.
    """
    target = target.resolve()
    if not target.parent.is_dir():
        raise NotFoundError(f"{target}: the folder {str(target.parent)!r} does not exist")
    _check_replaceable(target)
    part = target.with_name(f".{target.name}.ggq-export")
    old = target.with_name(f".{target.name}.ggq-old")
    for left_behind in (part, old):
        shutil.rmtree(left_behind, ignore_errors=True)
    part.mkdir()
    try:
        yield part
        if target.exists():
            target.rename(old)
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _check_replaceable(target: Path) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise UsageError(f"{target}: this is a file; name a directory for the export")
    for path in target.iterdir():
        if not _OURS.fullmatch(path.name) or not path.is_file():
            raise UsageError(
                f"{target}: the directory holds {path.name!r}, which no export writes; "
                "name a new directory"
            )
