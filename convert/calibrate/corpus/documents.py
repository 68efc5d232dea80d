"""Documents of calibration text: those in texts/, told by index.json, and files of the user.

index.json names for every file its domain, language, title, author, origin, licence and sha256;
licences/ holds the licences that must go with the text. A .json file is a list of conversations.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ggq.errors import CalibrationTextError, NotFoundError

FOLDER = Path(__file__).parent
INDEX = FOLDER / "index.json"
TEXTS = FOLDER / "texts"
LICENCES = FOLDER / "licences"

# The part of the tokens that comes from each domain of the text that ships.
SHARES: Mapping[str, float] = MappingProxyType(
    {
        "prose": 0.22,
        "languages": 0.18,
        "code": 0.20,
        "technical": 0.14,
        "dialogue": 0.16,
        "data": 0.06,
        "maths": 0.04,
    }
)
USER_DOMAIN = "user"
SPEAKERS = {"system": "System", "user": "User", "assistant": "Assistant"}

Message = dict[str, Any]
Conversation = tuple[Message, ...]


@dataclass(frozen=True)
class Document:
    """One text. `conversations` is empty unless it is made of chats; `text` then has them plain."""

    name: str
    domain: str
    language: str
    text: str
    conversations: tuple[Conversation, ...] = ()


@cache
def documents() -> tuple[Document, ...]:
    """The documents that ship with ggq, about 1.5 MB of text in seven domains."""
    return tuple(_shipped(entry) for entry in json.loads(INDEX.read_text(encoding="utf-8")))


def _shipped(entry: Mapping[str, str]) -> Document:
    path = TEXTS / entry["file"]
    text = path.read_bytes().decode("utf-8")
    conversations: tuple[Conversation, ...] = ()
    if path.suffix == ".json":
        conversations = tuple(tuple(one["messages"]) for one in json.loads(text))
        text = "\n\n".join(plain(one) for one in conversations) + "\n"
    return Document(path.stem, entry["domain"], entry["language"], text, conversations)


def plain(conversation: Sequence[Message]) -> str:
    """A conversation for a model without chat template: each message after its speaker."""
    return "\n".join(f"{SPEAKERS[one['role']]}: {one['content']}" for one in conversation)


def read_files(paths: Iterable[str | Path]) -> tuple[Document, ...]:
    """Documents of the user's text files (UTF-8), all of the domain "user".

    Raises NotFoundError for a file that is not there, CalibrationTextError for one that is not
    text and when there is none.
    """
    read = tuple(_user_file(Path(path)) for path in paths)
    if not read:
        raise CalibrationTextError("calibration needs at least one text file; none was given")
    return read


def _user_file(path: Path) -> Document:
    if path.is_dir():
        raise CalibrationTextError(f"{path} is a folder; calibration text is given as files")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise NotFoundError(f"{path}: no such calibration file") from None
    except UnicodeDecodeError as error:
        raise CalibrationTextError(
            f"{path}: byte {error.start:,} is not UTF-8; calibration text must be UTF-8"
        ) from None
    if not text.strip():
        raise CalibrationTextError(f"{path} has no text to calibrate with")
    return Document(path.name, USER_DOMAIN, "", text.replace("\r\n", "\n"))


def text_hash(texts: Sequence[Document] | None = None) -> str:
    """sha256, in hexadecimal digits, of the names, domains and texts; of what ships by default."""
    digest = hashlib.sha256()
    for document in documents() if texts is None else texts:
        for part in (document.name, document.domain, document.text):
            raw = part.encode()
            digest.update(len(raw).to_bytes(8, "little") + raw)
    return digest.hexdigest()
