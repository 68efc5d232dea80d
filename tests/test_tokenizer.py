"""Tokenizers rebuilt from GGUF metadata, against llama.cpp's golden ids and llama.cpp itself."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers

from ggq.errors import MetadataTypeError, MissingKeyError, TokenizerError
from ggq.reader import Reader
from ggq.runtime.tokenizer import Tokenizer, all_models, from_metadata
from ggq.runtime.tokenizer._long_words import LONG_WORD
from ggq.runtime.tokenizer._pretokenizers import PRETOKENIZERS
from ggq.runtime.tokenizer._special import SpecialTokens
from ggq.runtime.tokenizer.spm import Spm
from tests import oracles, vocabularies
from tests.llama_server import LlamaServer
from tests.vocabularies import CONTROL, UNUSED, USER_DEFINED

# Every vocabulary with golden ids in llama.cpp's tree, but for bert-bge (WordPiece).
GOLDEN = [
    *("command-r", "deepseek-coder", "deepseek-llm", "falcon", "gemma-4", "gpt-2", "llama-bpe"),
    *("llama-spm", "mpt", "phi-3", "qwen2", "qwen35", "refact", "starcoder"),
]

# Ends of a generation that llama.cpp's list of names gives for these vocabularies.
ENDS = {
    "llama-spm": ["</s>"],
    "phi-3": ["</s>", "<|endoftext|>", "<|end|>"],
    "llama-bpe": ["<|end_of_text|>", "<|eot_id|>"],
    "qwen2": ["</s>", "<|endoftext|>", "<|im_end|>"],
    "gemma-4": ["<eos>", "<|tool_response>", "<turn|>"],
    "refact": ["<|endoftext|>", "<fim_pad>", "<reponame>"],
    "gpt-2": ["<|endoftext|>"],
    "command-r": ["<PAD>", "<|END_OF_TURN_TOKEN|>"],
}

TEXTS = [
    "",
    " ",
    "Hello, world! It's 2026 and I'll count: 1 22 333 4444.",
    "  two  spaces\tand\ttabs\r\nand   three   ",
    "\n\n\n a\n\n b\n",
    "café naïve Ünïcödé ß ﬁ ﬀ",
    "日本語のテキスト、中文文本，한국어 텍스트",
    "🚀 😶‍🌫️ 👩‍👩‍👧‍👦 flags 🇩🇪🇫🇷",
    "def f(x):\n    return {'a': [1, 2, 3]}  # comment\n",
    "<|im_start|>user\nhi<|im_end|>\n<start_of_turn>model <bos> </s>",
    "mixed العربية and עברית and हिन्दी",
    "a" * 50 + "=" * 40 + "-" * 33,
]


@cache
def vocab(name: str) -> Tokenizer:
    tree = oracles.llama_cpp_tree()
    path = tree / "models" / f"ggml-vocab-{name}.gguf"
    return from_metadata(Reader(path, header_only=True).metadata)


@cache
def model_tokenizer(path: Path) -> Tokenizer:
    return from_metadata(Reader(path).metadata)


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_ids(name: str, llama_cpp_tree: Path) -> None:
    stem = llama_cpp_tree / "models" / f"ggml-vocab-{name}.gguf"
    raw = Path(f"{stem}.inp").read_bytes().decode()
    texts = raw.removesuffix("\n__ggml_vocab_test__\n").split("\n__ggml_vocab_test__\n")
    lines = Path(f"{stem}.out").read_text().splitlines()
    assert len(texts) == len(lines) >= 40
    for text, line in zip(texts, lines, strict=True):
        got = vocab(name).encode(text, add_special=False, parse_special=False)
        assert got == [int(number) for number in line.split()], text


@pytest.mark.parametrize("name", ENDS)
def test_tokens_that_end_a_generation(name: str) -> None:
    tokenizer = vocab(name)
    assert sorted(map(tokenizer.token_text, tokenizer.eog)) == sorted(ENDS[name])
    assert all(tokenizer.token_bytes(token) == b"" for token in tokenizer.eog)


@pytest.mark.parametrize("model", ["smollm2", "gemma3"])
def test_same_ids_as_llama_cpp(model: str, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(model)
    tokenizer = model_tokenizer(path)
    with LlamaServer(path, n_ctx=64) as server:
        for text in TEXTS:
            assert tokenizer.encode(text) == server.tokenize(text), text


@pytest.mark.parametrize("name", ["llama-spm", "gpt-2", "qwen2", "llama-bpe", "gemma-4"])
@settings(max_examples=100, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_decode_inverts_encode(name: str, text: str) -> None:
    tokenizer = vocab(name)
    tokens = tokenizer.encode(text, add_special=False, parse_special=False)
    if name == "gemma-4":
        text = text.replace("▁", " ")
    if name == "llama-spm":
        text = text.replace("▁", " ")
    assert tokenizer.decode(tokens) == text


@pytest.mark.parametrize("name", ["llama-spm", "gpt-2"])
@settings(max_examples=200, deadline=None)
@given(data=st.data(), special=st.booleans(), continuing=st.booleans())
def test_stream_gives_what_decode_gives(
    name: str, data: st.DataObject, special: bool, continuing: bool
) -> None:
    tokenizer = vocab(name)
    bytes_too = st.integers(0, 300) | st.integers(0, tokenizer.n_vocab - 1)
    tokens = data.draw(st.lists(bytes_too, max_size=40))
    stream = tokenizer.stream(special=special, continuing=continuing)
    parts = [*map(stream.push, tokens), stream.finish()]
    raw = b"".join(tokenizer.token_bytes(token, special) for token in tokens)
    if not continuing and name == "llama-spm":
        raw = raw.removeprefix(b" ")
    assert "".join(parts) == raw.decode("utf-8", "replace")
    assert "".join(parts) == tokenizer.decode(tokens, special=special, continuing=continuing)


@pytest.mark.parametrize("name", ["llama-spm", "gpt-2"])
def test_ten_thousand_random_streams(name: str) -> None:
    tokenizer, chance = vocab(name), random.Random(16)
    for _ in range(10_000):
        tokens = chance.choices(range(300), k=6) + chance.choices(range(tokenizer.n_vocab), k=2)
        chance.shuffle(tokens)
        stream = tokenizer.stream(continuing=False)
        text = "".join([*map(stream.push, tokens), stream.finish()])
        assert text == tokenizer.decode(tokens)


def test_stream_waits_for_the_last_byte_of_a_character() -> None:
    tokenizer = vocab("llama-spm")
    bytes_of = [tokenizer.token_id(f"<0x{byte:02X}>") for byte in "🦙".encode()]
    stream = tokenizer.stream()
    assert [stream.push(token or 0) for token in bytes_of] == ["", "", "", "🦙"]
    assert stream.push(bytes_of[0] or 0) == ""
    assert stream.finish() == "�"


def test_bos_and_eos_are_never_doubled() -> None:
    tokenizer = from_metadata(
        vocabularies.spm({"▁": -1.0, "a": -2.0, "▁a": -3.0}, add_eos_token=True)
    )
    assert tokenizer.encode("a") == [1, tokenizer.token_id("▁a"), 2]
    assert tokenizer.encode("<s>a</s>") == [1, tokenizer.token_id("▁a"), 2]
    assert tokenizer.encode("") == [1, 2]
    assert tokenizer.encode("a", add_special=False) == [tokenizer.token_id("▁a")]


def test_special_tokens_are_parsed_only_when_asked() -> None:
    metadata = vocabularies.bpe(["a b"], {"<|x|>": CONTROL, "<y>": USER_DEFINED, "[z]": UNUSED})
    tokenizer = from_metadata(metadata)
    x, y, ab = (tokenizer.token_id(text) for text in ("<|x|>", "<y>", "ab"))
    assert tokenizer.encode("ab<|x|><y>ab") == [ab, x, y, ab]
    plain = tokenizer.encode("<|x|><y>[z]", parse_special=False)
    assert x not in plain
    assert y in plain
    assert tokenizer.token_id("[z]") not in plain
    assert tokenizer.decode([ab, x, y], special=True) == "ab<|x|><y>"
    assert tokenizer.decode([ab, x, y]) == "ab<y>"


def test_the_longest_special_token_wins_and_spaces_belong_to_it_where_it_says_so() -> None:
    special = SpecialTokens({"<": 1, "<a>": 2, "<ab>": 3, "\n": 4}, {3}, {2})
    assert list(special.split("x <ab> <a>  y<a <<\n")) == ["x", 3, " ", 2, "y", 1, "a ", 1, 1, 4]
    assert list(SpecialTokens({}).split("abc")) == ["abc"]


def test_spaces_around_special_tokens_of_phi_3() -> None:
    tokenizer = vocab("phi-3")
    tokens = tokenizer.encode("<|user|>\n Hi<|end|>\n<s> Hi", add_special=False)
    texts = [tokenizer.token_text(token) for token in tokens]
    assert texts == ["<|user|>", "▁Hi", "<|end|>", "<s>", "▁", "▁Hi"]


def test_ends_by_role_and_by_name() -> None:
    names = ["<|im_end|>", "<|eom_id|>", "<|fim_pad|>", "<|end|>", "<|return|>", "<|call|>"]
    more = {"<|channel|>": CONTROL, "<custom_end>": CONTROL}
    special = dict.fromkeys(names, CONTROL) | more
    metadata = vocabularies.bpe([], special, eos_token_id=256 + len(special) - 1)
    tokenizer = from_metadata(metadata)
    ends = {tokenizer.token_text(token) for token in tokenizer.eog}
    assert ends == {*names, "<custom_end>"} - {"<|end|>"}
    assert tokenizer.eot == tokenizer.token_id("<|im_end|>")
    assert tokenizer.eom == tokenizer.token_id("<|eom_id|>")
    shown = [tokenizer.token_id(text) or 0 for text in ("<|channel|>", "<|end|>", "<|im_end|>")]
    assert tokenizer.decode(shown) == "<|channel|><|end|>"


def test_spm_merges_the_best_score_first_and_the_leftmost_of_equals() -> None:
    pieces = {"a": -1.0, "b": -2.0, "ab": -9.0, "bb": -3.0, "aa": -5.0, "aaa": -5.0}
    tokenizer = from_metadata(vocabularies.spm(pieces, add_space_prefix=False, add_bos_token=False))
    texts = [tokenizer.token_text(token) for token in tokenizer.encode("abb" + "aaaaa")]
    assert texts == ["a", "bb", "aaa", "aa"]
    unknown = tokenizer.encode("é")
    assert [tokenizer.token_text(token) for token in unknown] == ["<0xC3>", "<0xA9>"]


def test_long_words_are_merged_as_short_ones() -> None:
    """A word of megabytes takes another way; both give the same tokens on any text."""
    tokenizer = vocab("llama-spm")
    assert isinstance(tokenizer, Spm)
    chance = random.Random(7)
    for _ in range(400):
        alphabet = chance.choice(["▁▁▁▁a", "abcdefgh▁", "▁-=é", "日本語▁", "0123456789abcdef"])
        word = "".join(chance.choices(alphabet, k=chance.randrange(2, 150)))
        wanted = tokenizer._encode_word(word)
        assert tokenizer._long_words.encode(word) == wanted
        parts = tokenizer._long_words.parts(word)
        assert [t for part in parts for t in tokenizer._encode_word(part)] == wanted
        words = tokenizer._word_ends.split(word)
        assert [t for part in words for t in tokenizer._encode_word(part)] == wanted


@pytest.mark.parametrize("name", ["llama-spm", "gpt-2", "qwen2", "gemma-4"])
@pytest.mark.parametrize("text", [" " * 500_000, "a" * 300_000, "🚀" * 100_000])
def test_megabytes_without_a_word_end(name: str, text: str) -> None:
    tokenizer = vocab(name)
    assert len(text) > LONG_WORD
    tokens = tokenizer.encode(text, add_special=False)
    assert tokenizer.decode(tokens) == text


def test_lone_surrogates_become_replacement_characters() -> None:
    tokenizer = vocab("gpt-2")
    assert tokenizer.decode(tokenizer.encode("a\udc80b")) == "a�b"


@pytest.mark.parametrize("name", PRETOKENIZERS)
def test_every_pretokenizer_cuts_without_loss(name: str) -> None:
    byte_level = PRETOKENIZERS[name].byte_level
    made = vocabularies.bpe([], pre=name)
    if not byte_level:
        made = vocabularies.spm({"▁": 0.0, "a": 0.0}, model="gpt2", pre=name, merges=["a a"])
    tokenizer = from_metadata(made)
    for text in TEXTS:
        plain = tokenizer.encode(text, add_special=False, parse_special=False)
        assert tokenizer.decode(plain) == text


def test_no_regex_tries_every_start_of_a_long_run_anew() -> None:
    """One that does takes minutes for this text."""
    text = " " * 100_000 + "1"
    for splits in {pre.splits for pre in PRETOKENIZERS.values()}:
        cut = [text]
        for regex in splits:
            step = pre_tokenizers.Split(Regex(regex), "isolated")
            cut = [part for whole in cut for part, _ in step.pre_tokenize_str(whole)]
        assert "".join(cut) == text


def test_digits_are_grouped_from_the_right() -> None:
    merges = ["1 1", "11 1"]
    tokenizer = from_metadata(vocabularies.bpe(merges, pre="tiny_aya"))
    assert [tokenizer.token_text(t) for t in tokenizer.encode("1" * 8)] == ["11", "111", "111"]


def test_a_word_that_is_a_token_stays_whole_where_merges_are_ignored() -> None:
    special = {"hello": vocabularies.NORMAL}
    whole = from_metadata(vocabularies.bpe(["h e"], special, pre="llama-bpe", add_bos_token=False))
    assert whole.encode("hello") == [whole.token_id("hello")]
    merged = from_metadata(vocabularies.bpe(["h e"], special, pre="dbrx"))
    assert len(merged.encode("hello")) == 4


def test_merges_of_texts_that_are_no_tokens_end_as_bytes() -> None:
    metadata = vocabularies.bpe(["a b", "ab c"])
    metadata.set(
        "tokenizer.ggml.tokens",
        [text for text in metadata["tokenizer.ggml.tokens"].tolist() if text not in ("ab", "z")],
        metadata.type("tokenizer.ggml.tokens"),
        metadata.item_type("tokenizer.ggml.tokens"),
    )
    tokenizer = from_metadata(metadata)
    assert tokenizer.encode("abc") == [tokenizer.token_id("abc")]
    assert tokenizer.encode("abzab") == [tokenizer.token_id(c) for c in "abab"]


def test_vocabularies_that_are_wrong() -> None:
    spm, bpe = vocabularies.spm, vocabularies.bpe
    with pytest.raises(TokenizerError, match=r"'bert' is not implemented; known: .*gpt2"):
        from_metadata(spm({}, model="bert"))
    with pytest.raises(TokenizerError, match="pre is 'no-such', which is not known"):
        from_metadata(bpe([], pre="no-such"))
    with pytest.raises(TokenizerError, match="holds 261 tokens, but only 260 different"):
        from_metadata(spm({"a": 0.0, "<s>": 0.0}))
    with pytest.raises(TokenizerError, match="tokens is empty"):
        from_metadata(vocabularies.metadata_of({"model": "llama", "tokens": []}))
    with pytest.raises(TokenizerError, match="scores has 3 items for 260 tokens"):
        from_metadata(spm({"a": 0.0}, scores=[0.0, 0.0, 0.0]))
    with pytest.raises(TokenizerError, match="token_type is an array of float32"):
        from_metadata(spm({"a": 0.0}, token_type=[0.0] * 260))
    with pytest.raises(MissingKeyError, match=r"tokenizer\.ggml\.tokens"):
        from_metadata(vocabularies.metadata_of({"model": "llama"}))
    with pytest.raises(MissingKeyError, match=r"tokenizer\.ggml\.model"):
        from_metadata(vocabularies.metadata_of({}))
    with pytest.raises(MetadataTypeError, match="bos_token_id"):
        from_metadata(spm({"a": 0.0}, bos_token_id="<s>"))
    no_merges = bpe([])
    no_merges.pop("tokenizer.ggml.merges")
    with pytest.raises(MissingKeyError, match="merges"):
        from_metadata(no_merges).encode("a")


def test_tokens_that_are_none() -> None:
    tokenizer = from_metadata(vocabularies.spm({"a": 0.0}))
    for token in (-1, 260):
        with pytest.raises(TokenizerError, match=f"token {token} is not one of the 260"):
            tokenizer.token_bytes(token)
    odd = vocabularies.spm({"a": 0.0}, token_type=[1, 3, 3, *[6] * 257])
    with pytest.raises(TokenizerError, match="is a byte, but its text 'a'"):
        from_metadata(odd).decode([259])
    nothing = vocabularies.metadata_of({"model": "llama", "tokens": ["ab"]})
    assert from_metadata(nothing).encode("xab", add_special=False) == [0] * 5


def test_special_numbers_beyond_the_vocabulary_are_passed_over() -> None:
    tokenizer = from_metadata(vocabularies.spm({"a": 0.0}, bos_token_id=9999, eos_token_id=1))
    assert tokenizer.bos == 1
    assert tokenizer.eos == 1
    assert vocab("qwen2").unk is None


def test_known_models() -> None:
    assert {"llama", "gpt2", "gemma4"} <= set(all_models())
