"""Tokenizer files to metadata, against the tokenizers and sentencepiece libraries."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import sentencepiece
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, models, pre_tokenizers, trainers

from ggq.convert.vocab.metadata import tokenizer_metadata
from ggq.convert.vocab.pre import pre_name, published_steps
from ggq.errors import ConvertError, NotFoundError, TokenizerError
from ggq.metadata import Metadata
from ggq.runtime.tokenizer import Tokenizer, from_metadata
from ggq.runtime.tokenizer._pretokenizers import LLAMA3, O200K, PRETOKENIZERS, QWEN2
from tests import oracles, vocabularies
from tests.vocab_files import CORPUS, LLAMA, TEXTS, any_text, listed, loaded, write
from tests.vocabularies import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED

# --- BPE, against tokenizers -----------------------------------------------------------------


def split(regex: str, behavior: str = "isolated", invert: bool = False) -> Any:
    return pre_tokenizers.Split(Regex(regex), behavior, invert)


def byte_level(use_regex: bool = False) -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)


STRUCTURES: dict[str, tuple[list[Any], bool, str]] = {
    # name: (steps, ignore_merges, pre)
    "llama 3": ([split(LLAMA3), byte_level()], True, "llama-bpe"),
    "qwen": ([split(QWEN2), byte_level()], False, "qwen2"),
    "qwen, old": ([split(QWEN2, "removed", True), byte_level()], False, "qwen2"),
    "gpt-2": ([byte_level(True)], False, "gpt-2"),
    "smollm": ([pre_tokenizers.Digits(True), byte_level(True)], False, "smollm"),
    "gpt-4o": ([split(O200K), byte_level()], False, "gpt-4o"),
    "deepseek 3": (
        [*map(split, PRETOKENIZERS["deepseek-v3"].splits), byte_level()],
        False,
        "deepseek-v3",
    ),
}


def train_bpe(steps: list[Any], ignore_merges: bool) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps) if len(steps) > 1 else steps[0]
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        initial_alphabet=alphabet,
        special_tokens=["<s>", "</s>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens([tokenizers.AddedToken("<tool>", normalized=True), "<|odd|>"])
    return tokenizer


@cache
def trained_bpe(name: str) -> tuple[tokenizers.Tokenizer, Metadata]:
    steps, ignore_merges, _ = STRUCTURES[name]
    theirs = train_bpe(steps, ignore_merges)
    with temporary() as folder:
        theirs.save(str(folder / "tokenizer.json"))
        write(folder, "tokenizer_config.json", {"bos_token": "<s>", "eos_token": "</s>"})
        entries = tokenizer_metadata(folder, LLAMA | {"vocab_size": 620})
    return theirs, loaded(entries)


@contextmanager
def temporary() -> Iterator[Path]:
    with TemporaryDirectory() as name:
        yield Path(name)


@pytest.mark.parametrize("name", STRUCTURES)
@settings(max_examples=60, deadline=None)
@given(text=any_text | st.sampled_from(TEXTS))
def test_bpe_gives_the_ids_of_its_tokenizer_json(name: str, text: str) -> None:
    theirs, metadata = trained_bpe(name)
    tokens = from_metadata(metadata).encode(text, add_special=False)
    assert tokens == theirs.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("name", STRUCTURES)
def test_pre_is_found_from_the_structure(name: str) -> None:
    theirs, metadata = trained_bpe(name)
    assert metadata["tokenizer.ggml.pre"] == STRUCTURES[name][2]
    tokens, types = listed(metadata, "tokens"), listed(metadata, "token_type")
    n = theirs.get_vocab_size()
    assert tokens[:n] == [theirs.id_to_token(token) for token in range(n)]
    assert tokens[n:] == [f"[PAD{token}]" for token in range(n, 620)]
    kinds = dict(zip(tokens, types, strict=True))
    wanted = {"<s>": CONTROL, "</s>": CONTROL, "<tool>": USER_DEFINED, "<|odd|>": CONTROL}
    assert {text: kinds[text] for text in wanted} == wanted
    assert kinds["e"] == NORMAL
    assert kinds["[PAD619]"] == UNUSED
    merges = json.loads(theirs.to_str())["model"]["merges"]
    assert listed(metadata, "merges") == [" ".join(pair) for pair in merges]


@pytest.mark.parametrize("name", [name for name, pre in PRETOKENIZERS.items() if pre.byte_level])
def test_every_known_structure_is_recognized(name: str) -> None:
    pre = PRETOKENIZERS[name]
    content = {
        "pre_tokenizer": published_steps(pre),
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}]},
        "model": {"ignore_merges": pre.ignore_merges},
    }
    assert PRETOKENIZERS[pre_name(content, has_bos=pre.add_bos)].splits == pre.splits
    found = PRETOKENIZERS[pre_name(content, has_bos=pre.add_bos)]
    assert (found.ignore_merges, found.add_bos) == (pre.ignore_merges, pre.add_bos)


@pytest.mark.parametrize(
    "change",
    [
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"pre_tokenizer": None},
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "use_regex": True}},
        {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "x"}, "behavior": "Isolated"}},
        {"normalizer": {"type": "Lowercase"}},
        {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}]}},
        {"model": {"ignore_merges": True}},
    ],
)
def test_an_unknown_structure_is_printed(change: dict[str, Any]) -> None:
    known = {"pre_tokenizer": published_steps(PRETOKENIZERS["qwen2"]), "model": {}}
    assert pre_name(known, has_bos=True) == "qwen2"
    with pytest.raises(TokenizerError, match="no known pre-tokenizer has this structure") as error:
        pre_name(known | change, has_bos=True)
    for part in change.values():
        if part and "type" in part:
            assert json.dumps(part["type"]) in str(error.value)


def test_tokens_that_only_tokenizer_config_adds(tmp_path: Path) -> None:
    theirs = train_bpe(*STRUCTURES["qwen"][:2])
    theirs.save(str(tmp_path / "tokenizer.json"))
    n = theirs.get_vocab_size()
    decoder = {str(n): {"content": "<new>"}, str(n + 1): {"content": "<pad>", "special": False}}
    write(tmp_path, "tokenizer_config.json", {"added_tokens_decoder": decoder})
    metadata = loaded(tokenizer_metadata(tmp_path, {"architectures": ["Qwen2ForCausalLM"]}))
    assert listed(metadata, "tokens")[n:] == ["<new>", "<pad>"]
    assert listed(metadata, "token_type")[n:] == [USER_DEFINED, CONTROL]
    write(tmp_path, "tokenizer_config.json", {"added_tokens_decoder": {"9999": {"content": "<x>"}}})
    with pytest.raises(TokenizerError, match="'<x>' has number 9999, but"):
        tokenizer_metadata(tmp_path, LLAMA)


# --- sentencepiece ---------------------------------------------------------------------------


@cache
def trained_spm() -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=model,
        vocab_size=450,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    return model.getvalue()


@cache
def small_spm() -> tuple[Any, Tokenizer]:
    processor = sentencepiece.SentencePieceProcessor()
    processor.LoadFromSerializedProto(trained_spm())
    with temporary() as folder:
        (folder / "tokenizer.model").write_bytes(trained_spm())
        return processor, from_metadata(loaded(tokenizer_metadata(folder, LLAMA)))


@settings(max_examples=200, deadline=None)
@given(text=any_text | st.sampled_from(TEXTS))
def test_spm_gives_the_ids_of_sentencepiece(text: str) -> None:
    processor, ours = small_spm()
    tokens = ours.encode(text, add_special=False, parse_special=False)
    # An empty text has no tokens in sentencepiece either; a "▁" counts as a space in both.
    assert tokens == processor.encode(text)
    assert ours.decode(tokens) == processor.decode(tokens)


def test_published_sentencepiece_models() -> None:
    """Mistral's tokenizers: the same pieces, and the same ids as sentencepiece gives."""
    wheel = oracles.once("mistral-common-1.13.1.whl", _fetch_mistral_common)
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".model" in name]
        assert len(names) >= 4
        for name in names:
            processor = sentencepiece.SentencePieceProcessor()
            processor.LoadFromSerializedProto(archive.read(name))
            with temporary() as folder:
                (folder / "tokenizer.model").write_bytes(archive.read(name))
                metadata = loaded(tokenizer_metadata(folder, LLAMA))
            assert listed(metadata, "tokens") == processor.id_to_piece(
                list(range(processor.get_piece_size()))
            )
            ours = from_metadata(metadata)
            for text in TEXTS:
                tokens = ours.encode(text, add_special=False, parse_special=False)
                assert tokens == processor.encode(text), (name, text)


def _fetch_mistral_common(target: Path) -> None:
    oracles.pip_download("mistral-common==1.13.1", target.parent).rename(target)


def test_added_tokens_of_a_sentencepiece_model(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(trained_spm())
    write(tmp_path, "added_tokens.json", {"<first>": 450, "<second>": 451, "<beyond>": 460})
    decoder = {
        "2": {"content": "</s>", "special": True},
        "451": {"content": "▁▁second", "special": False},
        "453": {"content": "<|looks|>", "special": False},
    }
    write(tmp_path, "tokenizer_config.json", {"added_tokens_decoder": decoder})
    metadata = loaded(tokenizer_metadata(tmp_path, LLAMA | {"vocab_size": 456}))
    tokens, types = listed(metadata, "tokens"), listed(metadata, "token_type")
    assert tokens[:3] == ["<unk>", "<s>", "</s>"]
    assert types[:4] == [UNKNOWN, CONTROL, CONTROL, BYTE]
    assert tokens[450:] == ["<first>", "  second", "[PAD452]", "<|looks|>", "[PAD454]", "[PAD455]"]
    assert types[450:] == [USER_DEFINED, USER_DEFINED, UNUSED, CONTROL, UNUSED, UNUSED]
    scores = listed(metadata, "scores")
    assert scores[2] == scores[450] == scores[453] == -1000
    assert scores[452] == scores[455] == -10000
    assert scores[259:262] == [0, -1, -2]


def test_what_the_families_add(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(trained_spm())
    write(tmp_path, "tokenizer_config.json", {"add_prefix_space": False, "add_bos_token": True})

    def keys(name: str, n_vocab: int) -> dict[str, Any]:
        config = {"architectures": [name], "vocab_size": n_vocab}
        found = loaded(tokenizer_metadata(tmp_path, config))
        return {
            key.removeprefix("tokenizer.ggml."): value
            for key, value in found.items()
            if isinstance(value, bool | int)
        }

    bos, prefix = {"add_bos_token": True}, {"add_space_prefix": False}
    assert keys("LlamaForCausalLM", 456) == bos | prefix
    assert keys("Gemma3ForCausalLM", 456) == bos | prefix
    assert keys("Qwen2ForCausalLM", 456) == bos
    assert keys("LlamaForCausalLM", 32016) == bos | prefix | {"eot_token_id": 32010}
    assert keys("LlamaForCausalLM", 49152) == prefix | {"add_bos_token": False}


def test_a_sentencepiece_model_in_a_tokenizer_json(tmp_path: Path) -> None:
    """Scores are not known there; types and numbers are."""
    vocab = {
        text: n for n, text in enumerate(["<unk>", "<s>", *vocabularies.BYTES, "▁", "a", "▁a"])
    }
    model = {"type": "BPE", "vocab": vocab, "merges": ["▁ a"], "byte_fallback": True}
    steps = [
        {"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    ]
    added = [{"id": len(vocab), "content": "<x>", "single_word": False, "lstrip": False}]
    added[0] |= {"rstrip": False, "normalized": False, "special": False}
    content = {
        "version": "1.0",
        "model": model,
        "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}]},
    }
    write(tmp_path, "tokenizer.json", content)
    write(
        tmp_path, "tokenizer_config.json", {"unk_token": "<unk>", "bos_token": {"content": "<s>"}}
    )
    metadata = loaded(tokenizer_metadata(tmp_path, LLAMA))
    assert metadata["tokenizer.ggml.model"] == "llama"
    types = listed(metadata, "token_type")
    assert types[:3] == [CONTROL, CONTROL, BYTE]
    assert types[-4:] == [NORMAL, NORMAL, NORMAL, USER_DEFINED]
    assert set(listed(metadata, "scores")) == {-1000.0}
    with pytest.raises(TokenizerError, match="no known pre-tokenizer"):
        tokenizer_metadata(tmp_path, {"architectures": ["Qwen2ForCausalLM"]})


# --- errors ----------------------------------------------------------------------------------


def test_directories_without_a_usable_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"no tokenizer\.model and no tokenizer\.json"):
        tokenizer_metadata(tmp_path, LLAMA)
    write(tmp_path, "vocab.json", {})
    with pytest.raises(NotFoundError, match=r"vocab\.json alone is not enough"):
        tokenizer_metadata(tmp_path, LLAMA)
    write(tmp_path, "tokenizer.json", {"model": {"type": "Unigram", "vocab": []}})
    with pytest.raises(TokenizerError, match="of type 'Unigram'; known is BPE"):
        tokenizer_metadata(tmp_path, LLAMA)
    write(tmp_path, "tokenizer.json", {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": 3}})
    with pytest.raises(TokenizerError, match="cannot be loaded"):
        tokenizer_metadata(tmp_path, LLAMA)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ConvertError, match="not valid JSON"):
        tokenizer_metadata(tmp_path, LLAMA)
    (tmp_path / "tokenizer.model").write_bytes(b"no protobuf")
    with pytest.raises(TokenizerError, match="not a sentencepiece model"):
        tokenizer_metadata(tmp_path, LLAMA)


def test_tokens_with_impossible_numbers(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(trained_spm())
    for decoder, message in (
        ({"x": {"content": "<x>"}}, "has the number 'x'"),
        ({"-1": {"content": "<x>"}}, "has the number '-1'"),
        ({"3": {"special": True}}, "added token 3 has no content"),
    ):
        write(tmp_path, "tokenizer_config.json", {"added_tokens_decoder": decoder})
        with pytest.raises(TokenizerError, match=message):
            tokenizer_metadata(tmp_path, LLAMA)
    (tmp_path / "tokenizer_config.json").unlink()
    write(tmp_path, "config.json", {"bos_token_id": -1})
    with pytest.raises(ConvertError, match="the bos token has the number -1"):
        tokenizer_metadata(tmp_path, LLAMA)
    (tmp_path / "tokenizer.model").unlink()
    train_bpe(*STRUCTURES["qwen"][:2]).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(TokenizerError, match=r"but config\.json says there are 300 tokens"):
        tokenizer_metadata(tmp_path, LLAMA | {"vocab_size": 300})


def test_a_dna_tokenizer_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "tokenizer_config.json", {"tokenizer_class": "HybridDNATokenizer"})
    with pytest.raises(TokenizerError, match="HybridDNATokenizer is not implemented"):
        tokenizer_metadata(tmp_path, LLAMA)
