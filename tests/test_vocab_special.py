"""Special tokens and chat templates from the files of a model, against gguf-py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from ggq.convert.vocab.special import special_metadata
from tests.vocab_files import loaded, write

BOS = {"SpecialToken": {"id": "<s>", "type_id": 0}}
EOS = {"SpecialToken": {"id": "</s>", "type_id": 0}}
END = {"SpecialToken": {"id": "<end>", "type_id": 0}}
A = {"Sequence": {"id": "A", "type_id": 0}}
B = {"Sequence": {"id": "B", "type_id": 1}}
TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": {"content": "<unk>"}}


def template(single: list[Any], pair: list[Any]) -> dict[str, Any]:
    return {"type": "TemplateProcessing", "single": single, "pair": pair}


CASES: dict[str, tuple[Any, Any, Any]] = {
    # name: (post_processor, tokenizer_config.json, config.json)
    "byte level": ({"type": "ByteLevel"}, TOKENS, {}),
    "bos": (template([BOS, A], [BOS, A, BOS, B]), TOKENS, {}),
    "bos and eos": (template([BOS, A, EOS], [BOS, A, EOS, B, EOS]), TOKENS, {}),
    "separator": (template([A], [A, EOS, B]), TOKENS, {}),
    "two separators": (template([A], [A, EOS, EOS, B]), TOKENS | {"sep_token": "</s>"}, {}),
    "another end": (template([BOS, A, END], [BOS, A, B, END]), TOKENS, {}),
    "bos only in the template": (template([BOS, A], [A, B]), {"eos_token": "</s>"}, {}),
    "cls for bos": (template([BOS, A], []), {"cls_token": "<s>", "sep_token": "</s>"}, {}),
    "sequence": (
        {"type": "Sequence", "processors": [{"type": "ByteLevel"}, template([BOS, A], [])]},
        TOKENS,
        {},
    ),
    "roberta": (
        {"type": "RobertaProcessing", "cls": ["<s>", 1], "sep": ["</s>", 2]},
        TOKENS,
        {},
    ),
    "flags": (None, TOKENS | {"add_bos_token": True, "add_eos_token": False}, {}),
    "flags against template": (
        template([BOS, A], [BOS, A, B]),
        TOKENS | {"add_bos_token": False, "add_sep_token": True},
        {},
    ),
    "numbers": (None, TOKENS, {"bos_token_id": 3, "pad_token_id": 0, "sep_token_id": [1]}),
    "numbers of a text part": (
        None,
        {"x": 1},
        {"eos_token_id": 1, "text_config": {"eos_token_id": 2, "bos_token_id": 3}},
    ),
    "numbers beyond": (None, {"x": 1}, {"bos_token_id": 99, "eos_token_id": 4}),
    "no tokenizer_config": (template([BOS, A], []), None, {"bos_token_id": 1}),
    "a template": (None, TOKENS | {"chat_template": "{{ x }}"}, {}),
}


# Prints what gguf-py's SpecialVocab finds in the folders it is given.
REFERENCE = """
import json, sys, gguf
keys, found = gguf.Keys.Tokenizer, {}
for folder in sys.argv[1:]:
    special = gguf.SpecialVocab(folder, n_vocab=5)
    values = {f"{role.upper()}_ID": n for role, n in special.special_token_ids.items()}
    values |= {f"ADD_{role.upper()}": v for role, v in special.add_special_token.items()}
    found[folder] = {getattr(keys, k): v for k, v in values.items() if hasattr(keys, k)}
    if special.chat_template:
        found[folder][keys.CHAT_TEMPLATE] = special.chat_template
print(json.dumps(found))
"""


def test_special_tokens_are_those_of_the_reference(tmp_path: Path, llama_cpp_tree: Path) -> None:
    folders = []
    for name, (processor, tokenizer_config, config) in CASES.items():
        folder = tmp_path / name
        folder.mkdir()
        texts = ["<unk>", "<s>", "</s>", "<end>"]
        added = [{"id": number, "content": text} for number, text in enumerate(texts)]
        write(folder, "tokenizer.json", {"post_processor": processor, "added_tokens": added})
        if tokenizer_config is not None:
            write(folder, "tokenizer_config.json", tokenizer_config)
        write(folder, "config.json", config)
        folders.append(folder)
    theirs = subprocess.run(
        [sys.executable, "-c", REFERENCE, *map(str, folders)],
        env=os.environ | {"PYTHONPATH": str(llama_cpp_tree / "gguf-py")},
        stdout=subprocess.PIPE,
        check=True,
    )
    wanted = json.loads(theirs.stdout)
    assert len(wanted) == len(CASES)
    for folder in folders:
        ours = dict(loaded(special_metadata(folder, n_vocab=5)))
        assert ours == wanted[str(folder)], folder.name


def test_chat_templates_from_every_file(tmp_path: Path) -> None:
    def templates() -> dict[str, Any]:
        found = loaded(special_metadata(tmp_path))
        return {key.removeprefix("tokenizer."): found[key] for key in found}

    write(tmp_path, "tokenizer_config.json", {"x": 1})
    write(tmp_path, "chat_template.json", {"chat_template": "from json"})
    assert templates() == {"chat_template": "from json"}
    (tmp_path / "chat_template.jinja").write_text("from jinja é", encoding="utf-8")
    assert templates() == {"chat_template": "from jinja é"}
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool-use.jinja").write_text("tools")
    wanted = {
        "chat_template.tool_use": "tools",
        "chat_templates": ["tool_use"],
        "chat_template": "from jinja é",
    }
    assert templates() == wanted
    named = [{"name": "default", "template": "d"}, {"name": "rag", "template": "r"}, {"name": 1}]
    write(tmp_path, "tokenizer_config.json", {"chat_template": named})
    assert templates() == {
        "chat_template.rag": "r",
        "chat_templates": ["rag"],
        "chat_template": "d",
    }
