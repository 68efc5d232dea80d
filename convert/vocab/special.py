"""Special tokens, what is added around a text, and chat templates, from the files of a model.

The rules are those of llama.cpp gguf-py/gguf/vocab.py `SpecialVocab`, so that both converters write
the same keys: tokenizer.json names the tokens by text, its post-processor tells which are added,
tokenizer_config.json and config.json fill in the rest.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ggq.convert.sources.json_file import read_json
from ggq.errors import ConvertError
from ggq.spec import ValueType

Json = dict[str, Any]
Entry = tuple[Any, ...]

ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
# Roles that have a key in GGUF.
ID_KEYS = {
    "bos": "tokenizer.ggml.bos_token_id",
    "eos": "tokenizer.ggml.eos_token_id",
    "unk": "tokenizer.ggml.unknown_token_id",
    "sep": "tokenizer.ggml.seperator_token_id",
    "pad": "tokenizer.ggml.padding_token_id",
    "mask": "tokenizer.ggml.mask_token_id",
    "eot": "tokenizer.ggml.eot_token_id",
    "eom": "tokenizer.ggml.eom_token_id",
}
ADD_KEYS = {role: f"tokenizer.ggml.add_{role}_token" for role in ("bos", "eos", "sep")}
TEMPLATE_KEY = "tokenizer.chat_template"


def special_metadata(model_dir: Path, n_vocab: int | None = None) -> list[Entry]:
    """(key, type, value) of special tokens, added tokens and chat templates.

    Numbers from `n_vocab` on are passed over. Raises ConvertError.
    """
    special = _Special(model_dir, n_vocab)
    entries: list[Entry] = []
    for role, token in special.ids.items():
        if role in ID_KEYS:
            entries.append((ID_KEYS[role], ValueType.U32, token))
    for role, added in special.added.items():
        if role in ADD_KEYS:
            entries.append((ADD_KEYS[role], ValueType.BOOL, added))
    return [*entries, *_template_entries(_template(model_dir, special.config))]


def optional_json(path: Path) -> Json:
    """The object in `path`, empty if there is no such file. Raises ConvertError."""
    return read_json(path) if path.is_file() else {}


def text_of(token: Any) -> str | None:
    """Text of a token that tokenizer_config.json gives as a text or an object."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None


class _Special:
    """`ids`: role -> token; `added`: role -> whether it is put around every text."""

    def __init__(self, model_dir: Path, n_vocab: int | None) -> None:
        self.ids: dict[str, int] = {}
        self.added: dict[str, bool] = {}
        self.config = optional_json(model_dir / "tokenizer_config.json")
        self._n_vocab = n_vocab
        self._roles = list(ROLES)
        tokenizer = optional_json(model_dir / "tokenizer.json")
        # Texts by role; the post-processor may know better than tokenizer_config.json.
        self._texts = {key: value for key, value in self.config.items() if key.endswith("_token")}
        if tokenizer:
            self._read_post_processor(tokenizer.get("post_processor") or {})
        self._read_config(tokenizer.get("added_tokens") or [])
        self._read_model_config(model_dir)

    def _text(self, role: str) -> Any:
        return self._texts.get(f"{role}_token")

    def _set_text(self, role: str, text: Any) -> None:
        self._texts[f"{role}_token"] = text

    def _read_post_processor(self, post_processor: Json) -> None:
        for role, stand_in in (("bos", "cls"), ("eos", "sep")):
            if not self._text(role) and self._text(stand_in):
                self._set_text(role, self._text(stand_in))
        for processor in post_processor.get("processors", [post_processor]):
            kind = processor.get("type")
            if kind == "ByteLevel":
                self.added.setdefault("bos", False)
                self.added.setdefault("eos", False)
            elif kind == "RobertaProcessing":
                self.added |= {"bos": True, "eos": True, "sep": True}
                for role, stand_in in (("cls", "bos"), ("sep", "eos")):
                    if not self._text(role):
                        self._set_text(role, processor.get(role, [self._text(stand_in)])[0])
            elif kind == "TemplateProcessing":
                self._read_template(processor)

    def _read_template(self, processor: Json) -> None:
        single = processor.get("single", [])
        first = last = None
        if len(single) > 1:
            if first := _special_id(single[0]):
                self._read_first(first)
            if last := _special_id(single[-1]):
                self._read_last(last)
        if pair := processor.get("pair", []):
            self._read_pair(pair, first, last)

    def _read_first(self, first: str) -> None:
        known = (text_of(self._text("bos")), text_of(self._text("cls")))
        if first not in known:
            for role in ("bos", "cls"):
                if not self._text(role):
                    self._set_text(role, first)
        self.added["bos"] = first in (text_of(self._text("bos")), text_of(self._text("cls")))

    def _read_last(self, last: str) -> None:
        if last != text_of(self._text("eos")):
            for role in ("eot", "eom"):
                if role not in self._roles:
                    self._roles.append(role)
                    self._set_text(role, self._text("eos"))
                    break
            self._set_text("eos", last)
        self.added["eos"] = True

    def _read_pair(self, pair: list[Json], first: str | None, last: str | None) -> None:
        start = 1 if first and _special_id(pair[0]) == first else 0
        stop = -1 if last and _special_id(pair[-1]) == last else None
        inner = pair[start:stop]
        sequences = [part.get("Sequence", {}).get("id") for part in inner]
        if len(inner) < 3 or (sequences[0], sequences[-1]) != ("A", "B"):
            return
        separators = (text_of(self._text("sep")), text_of(self._text("eos")))
        between = [_special_id(part) for part in inner[1:-1]]
        add = between[0] is not None and between[0] in separators and not last
        add |= len(between) == 2 and between[1] is not None and between[1] in separators
        self.added["sep"] = add
        if add and not self._text("sep"):
            self._set_text("sep", self._text("eos"))

    def _read_config(self, added_tokens: list[Json]) -> None:
        if not self.config:
            return
        numbers: dict[Any, Any] = {}
        for token in added_tokens:
            numbers.setdefault(token.get("content"), token.get("id"))
        for role in self._roles:
            add = self.config.get(f"add_{role}_token")
            if isinstance(add, bool):
                self.added.setdefault(role, add)
            text = text_of(self._text(role))
            if text is not None:
                self._set(role, numbers.get(text))

    def _read_model_config(self, model_dir: Path) -> None:
        config = optional_json(model_dir / "config.json")
        nested = config.get("text_config")
        for role in self._roles:
            token = config.get(f"{role}_token_id")
            if token is None and isinstance(nested, dict):
                token = nested.get(f"{role}_token_id")
            self._set(role, token)

    def _set(self, role: str, token: Any) -> None:
        if not isinstance(token, int):
            return
        if token < 0:
            raise ConvertError(f"the {role} token has the number {token}")
        if self._n_vocab is None or token < self._n_vocab:
            self.ids.setdefault(role, token)


def _special_id(part: Json) -> str | None:
    token = part.get("SpecialToken", {}).get("id")
    return token if isinstance(token, str) else None


def _template(model_dir: Path, config: Json) -> Any:
    """A text, or a list of {name, template}, or None."""
    if not config:
        return None
    beside: Any = None
    jinja = model_dir / "chat_template.jinja"
    if jinja.is_file():
        beside = jinja.read_text(encoding="utf-8")
        more = sorted((model_dir / "additional_chat_templates").glob("*.jinja"))
        if more:
            named = [{"name": p.stem, "template": p.read_text(encoding="utf-8")} for p in more]
            beside = [{"name": "default", "template": beside}, *named]
    elif (model_dir / "chat_template.json").is_file():
        beside = read_json(model_dir / "chat_template.json").get("chat_template")
    return config.get("chat_template", beside)


def _template_entries(template: Any) -> list[Entry]:
    if isinstance(template, str):
        return [(TEMPLATE_KEY, ValueType.STRING, template)]
    if not isinstance(template, list):
        return []
    named: dict[str, str] = {}
    for choice in template:
        if isinstance(choice, dict) and isinstance(choice.get("template"), str):
            name = re.sub("[^A-Za-z0-9]", "_", str(choice.get("name", "")))
            named[name] = choice["template"]
    default = named.pop("default", None)
    named.pop("", None)
    entries: list[Entry] = [
        (f"{TEMPLATE_KEY}.{name}", ValueType.STRING, text) for name, text in named.items()
    ]
    if named:
        entries.append(("tokenizer.chat_templates", ValueType.ARRAY, [*named], ValueType.STRING))
    if default is not None:
        entries.append((TEMPLATE_KEY, ValueType.STRING, default))
    return entries
