"""Tokenizer files written from metadata: converting them gives the same vocabulary again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sentencepiece
import tokenizers

from ggq.convert.export.vocab import write_tokenizer
from ggq.convert.vocab.metadata import tokenizer_metadata
from ggq.errors import TokenizerError
from ggq.metadata import Metadata
from ggq.reader import Reader
from ggq.runtime.tokenizer import from_metadata
from ggq.strings import StringArray
from tests import vocabularies
from tests.vocab_files import TEXTS, loaded, write
from tests.vocabularies import BYTE, CONTROL, UNKNOWN, UNUSED, USER_DEFINED


def again(metadata: Metadata, folder: Path) -> Metadata:
    """`metadata` written as files of a model directory, and those converted."""
    names = {"gemma3": "Gemma3ForCausalLM", "qwen2": "Qwen2ForCausalLM"}
    name = names.get(metadata.get_str("general.architecture", ""), "LlamaForCausalLM")
    n_vocab = len(metadata["tokenizer.ggml.tokens"])
    write(folder, "config.json", {"architectures": [name], "vocab_size": n_vocab})
    write_tokenizer(metadata, folder)
    return loaded(tokenizer_metadata(folder, json.loads((folder / "config.json").read_text())))


def assert_same(found: Metadata, wanted: Metadata, but: tuple[str, ...] = ()) -> None:
    keys = {
        key for key in wanted if key.startswith("tokenizer.") and not key.endswith(but or ("!",))
    }
    assert keys <= set(found)
    for key in keys:
        ours, theirs = found[key], wanted[key]
        assert isinstance(ours, StringArray) == isinstance(theirs, StringArray)
        if not isinstance(theirs, str | int | float):
            ours, theirs = ours.tolist(), theirs.tolist()
        assert ours == theirs, key


@pytest.mark.parametrize("model", ["smollm2", "gemma3"])
def test_export_and_convert_give_the_published_vocabulary(
    model: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    published = Reader(request.getfixturevalue(model)).metadata
    found = again(published, tmp_path)
    assert_same(found, published)
    assert set(found) == {key for key in published if key.startswith("tokenizer.")}
    if model == "gemma3":
        processor = sentencepiece.SentencePieceProcessor()
        processor.LoadFromFile(str(tmp_path / "tokenizer.model"))
        wanted = from_metadata(published).encode("Hello world 你好\n", add_special=False)
        assert processor.encode("Hello world 你好\n") == wanted
    else:
        theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
        ours = from_metadata(published)
        for text in [*TEXTS, "<|im_start|>user\n"]:
            assert theirs.encode(text).ids == ours.encode(text)


@pytest.mark.parametrize("name", ["llama-spm", "llama-bpe", "deepseek-llm"])
def test_vocabularies_of_llama_cpp_come_back(
    name: str, llama_cpp_tree: Path, tmp_path: Path
) -> None:
    path = llama_cpp_tree / "models" / f"ggml-vocab-{name}.gguf"
    metadata = Reader(path, header_only=True).metadata
    assert_same(again(metadata, tmp_path), metadata)


def test_settings_come_back(tmp_path: Path) -> None:
    special = {"<s>": CONTROL, "</s>": CONTROL, "<t>": USER_DEFINED, "[PAD260]": UNUSED}
    metadata = vocabularies.bpe(
        ["a b"],
        special,
        pre="llama-bpe",
        bos_token_id=257,
        eos_token_id=258,
        add_bos_token=True,
        add_eos_token=True,
        add_space_prefix=False,
    )
    for name, text in (("", "default"), (".tool_use", "tools")):
        metadata.set(f"tokenizer.chat_template{name}", text, vocabularies.ValueType.STRING)
    found = again(metadata, tmp_path)
    assert_same(found, metadata)
    assert found["tokenizer.chat_templates"].tolist() == ["tool_use"]
    ids = json.loads((tmp_path / "config.json").read_text())
    assert (ids["bos_token_id"], ids["eos_token_id"]) == (257, 258)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (vocabularies.bpe([], {"<b>": BYTE}), r"'<b>' of type BYTE has no place"),
        (vocabularies.bpe([], {"[PAD9]": UNUSED}), "of type UNUSED has no place"),
        (vocabularies.spm({"a": 0.0}, {"<x>": USER_DEFINED}), "'<x>' of type USER_DEFINED"),
        (vocabularies.spm({"a": 0.0}, {"<x>": UNKNOWN}), "'<x>' of type UNKNOWN"),
        (vocabularies.spm({"a": 0.0}, unknown_token_id=1), "'<s>' of type CONTROL"),
        (vocabularies.spm({"a": 0.0}, {"<x>": 0}), "'<x>' of type UNDEFINED"),
        (vocabularies.spm({"▁": 0.0}, model="gemma4", merges=["a b"]), "'gemma4' cannot"),
        (vocabularies.bpe([], pre="gemma4"), "'gemma4' cannot be exported"),
    ],
)
def test_what_the_files_cannot_hold(metadata: Metadata, message: str, tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=message):
        write_tokenizer(metadata, tmp_path)
