"""How a text is cut into words before BPE, by `tokenizer.ggml.pre`.

The regexes are the published ones of the models' tokenizer.json; each is applied to the parts the
one before it left, and what it does not match is a part too. llama.cpp replaces letter case classes
by ASCII ones, which differs for a few rare non-Latin words; here they are kept as the models have
them. To stay linear, right-aligned groups of three digits look ahead at most 64 groups, and spaces
at the end are looked for from their first one only.
Facts: llama.cpp src/llama-vocab.cpp `llm_tokenizer_bpe` and `llama_vocab::impl::load`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

# Common pieces.
CONTRACTION = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
SPACE = r"\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
ASCII_SIGN_WORD = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"""
MARKED_WORD = r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
EAST_ASIAN = "[一-龥぀-ゟ゠-ヿ]+"
DIGIT = r"\p{N}"
TRIPLES = r"\p{N}{1,3}"
TRAILING_SPACE = r"(?<!\s)\s++$"
RIGHT_TRIPLES = r"\p{N}{1,3}(?=(?:\p{N}{3}){0,64}(?!\p{N}))|\p{N}{3}"

# Letters with case, beyond ASCII; escaped because some are equivalent to others.
CASED_LETTERS = (
    "\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af"
    "\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1"
    "\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8"
    "-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-"
    "\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-"
    "\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-"
    "\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-"
    "\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149"
    "\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d"
    "\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13"
    "-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3"
    "\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df"
    "\U0001e900-\U0001e943"
)


def _cased(end: str, digits: str) -> str:
    """The o200k family: words split where a small letter is followed by a capital one."""
    first = rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{end}"
    second = rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{end}"
    return rf"{first}|{second}|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{SPACE}"


GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = rf"{CONTRACTION}|{WORD}|{TRIPLES}|{SIGNS}|{SPACE}"
QWEN2 = rf"{CONTRACTION}|{WORD}|{DIGIT}|{SIGNS}|{SPACE}"
DEEPSEEK3 = rf"{ASCII_SIGN_WORD}|{MARKED_WORD}| ?[\p{{P}}\p{{S}}]+[\r\n]*|{SPACE}"
O200K = _cased(f"{CONTRACTION}?", TRIPLES)
PUNCTUATION = r"[\p{P}\$\+<=>\^~\|]+"
PUNCTUATION_FALCON = r"[\p{P}\$\+<=>\^~\|`]+"
BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"
NEWLINES = r"[^\n]+|\n+"


@dataclass(frozen=True)
class PreTokenizer:
    """One way to cut a text.

    `ignore_merges`: a word that is a token stays whole. `byte_level`: words are written with one
    letter per byte, else a space is "▁" and missing characters are byte tokens.
    `has_bos`: False if the vocabulary has no BOS unless it names one. `newline_tokens`: a run of
    newlines that is a token stays whole.
    """

    splits: tuple[str, ...]
    ignore_merges: bool = False
    add_bos: bool = False
    has_bos: bool = True
    byte_level: bool = True
    newline_tokens: bool = False


_LLAMA3 = PreTokenizer((LLAMA3,), ignore_merges=True, add_bos=True)
_GPT2 = PreTokenizer((GPT2,))
_DIGITS_GPT2 = PreTokenizer((DIGIT, GPT2))
_QWEN2 = PreTokenizer((QWEN2,))
_DEEPSEEK3 = PreTokenizer((TRIPLES, EAST_ASIAN, DEEPSEEK3))
_O200K = PreTokenizer((O200K,))
_GEMMA4 = PreTokenizer((NEWLINES,), byte_level=False, newline_tokens=True)
_BLOOM = PreTokenizer((BLOOM,))
_BAILING = PreTokenizer(
    (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|"
        r"\s*[\r\n]|\s+(?!\S)|\s+",
    )
)
_TINY_AYA = PreTokenizer((RIGHT_TRIPLES, O200K))

# Of names with the same splits the first is the one a converter writes.
PRETOKENIZERS: dict[str, PreTokenizer] = {
    "default": PreTokenizer((PUNCTUATION, GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "falcon3": _LLAMA3,
    "falcon-h1": _LLAMA3,
    "pixtral": _LLAMA3,
    "midm-2.0": _LLAMA3,
    "lfm2": _LLAMA3,
    "jina-v5-nano": _LLAMA3,
    "dbrx": PreTokenizer((LLAMA3,)),
    "smaug-bpe": PreTokenizer((LLAMA3,)),
    "glm4": PreTokenizer((LLAMA3,), ignore_merges=True, has_bos=False),
    "glm5": PreTokenizer((LLAMA3,), ignore_merges=True, has_bos=False),
    "chatglm-bpe": PreTokenizer((LLAMA3,), has_bos=False),
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
    "kormo": _QWEN2,
    "f2llmv2": _QWEN2,
    "stablelm2": _QWEN2,
    "megrez": _QWEN2,
    "hunyuan": _QWEN2,
    "solar-open": _QWEN2,
    "grok-2": _QWEN2,
    "qwen35": PreTokenizer(
        (
            rf"{CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|{DIGIT}|"
            rf" ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{SPACE}",
        )
    ),
    "gpt-2": _GPT2,
    "phi-2": _GPT2,
    "mpt": _GPT2,
    "olmo": _GPT2,
    "jais": _GPT2,
    "trillion": _GPT2,
    "granite-docling": _GPT2,
    "exaone4": _GPT2,
    "gigachat": _GPT2,
    "a.x-4.0": _GPT2,
    "mellum": _GPT2,
    "modern-bert": _GPT2,
    "jina-es": _GPT2,
    "jina-de": _GPT2,
    "jina-v1-en": _GPT2,
    "jina-v2-es": _GPT2,
    "jina-v2-de": _GPT2,
    "jina-v2-code": _GPT2,
    "roberta-bpe": _GPT2,
    "smollm": _DIGITS_GPT2,
    "starcoder": _DIGITS_GPT2,
    "refact": _DIGITS_GPT2,
    "command-r": _DIGITS_GPT2,
    "codeshell": _DIGITS_GPT2,
    "exaone": _DIGITS_GPT2,
    "minerva-7b": _DIGITS_GPT2,
    "mellum2": _DIGITS_GPT2,
    "falcon": PreTokenizer((PUNCTUATION_FALCON, GPT2, "[0-9][0-9][0-9]")),
    "deepseek-llm": PreTokenizer(
        (
            r"[\r\n]",
            rf"\s?[A-Za-z{CASED_LETTERS}]+",
            r"\s?[!-/:-~！-／：-～‘-‟　-。]+",
            TRAILING_SPACE,
            "[一-龥ࠀ-一가-퟿]+",
            r"\p{N}+",
        )
    ),
    "deepseek-coder": PreTokenizer(
        (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", DIGIT)
    ),
    "deepseek-v3": _DEEPSEEK3,
    "hunyuan-dense": _DEEPSEEK3,
    "joyai-llm": _DEEPSEEK3,
    "hy_v4": _DEEPSEEK3,
    "spark2_5": PreTokenizer(
        (
            TRIPLES,
            EAST_ASIAN,
            rf"{ASCII_SIGN_WORD}|{MARKED_WORD}| ?[\p{{P}}\p{{S}}]+|[\r\n]|\s+(?!\S)|\s+",
            DIGIT,
        )
    ),
    "gpt-4o": _O200K,
    "llama4": _O200K,
    "kanana2": _O200K,
    "talkie": _O200K,
    "minimax-m2": _O200K,
    "granite-embed-multi-97m": replace(_O200K, ignore_merges=True),
    "tekken": PreTokenizer((_cased("", DIGIT),), ignore_merges=True, add_bos=True),
    "youtu": PreTokenizer(
        (
            "[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+",
            _cased(f"{CONTRACTION}?", DIGIT),
        ),
        ignore_merges=True,
    ),
    "kimi-k2": PreTokenizer(
        (
            r"[\p{Han}]+|"
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*"
            rf"[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}&&[^\p{{Han}}]]+{CONTRACTION}?|"
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+"
            rf"[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}&&[^\p{{Han}}]]*{CONTRACTION}?|"
            rf"{TRIPLES}|{SIGNS}|{SPACE}",
        )
    ),
    "tiny_aya": _TINY_AYA,
    "cohere2moe": _TINY_AYA,
    "superbpe": PreTokenizer((r"\p{N}+", RIGHT_TRIPLES)),
    "bailingmoe": _BAILING,
    "bailingmoe2": _BAILING,
    "llada-moe": _BAILING,
    "seed-coder": PreTokenizer(
        (rf"{CONTRACTION}|{WORD}|\p{{N}}{{1}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{SPACE}",)
    ),
    "ufakzeka": PreTokenizer((rf"{WORD}|{DIGIT}|{SIGNS}|{SPACE}",)),
    "afmoe": PreTokenizer(
        (
            RIGHT_TRIPLES,
            "[一-鿿㐀-䶿豈-﫿぀-ゟ゠-ヿ･-ﾟ⼀-⿟เ-๿຀-໿ក-៿က-႟ꩠ-ꩿꧠ-꧿가-힯ᄀ-ᇿ]+",
            DEEPSEEK3,
        )
    ),
    "laguna": PreTokenizer((NEWLINES, QWEN2)),
    "exaone-moe": PreTokenizer(
        (
            rf"{CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|"
            rf"{DIGIT}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+",
        )
    ),
    "minicpm5": PreTokenizer(
        (TRIPLES, rf"{CONTRACTION}|{WORD}|\p{{N}}+|{SIGNS}|{SPACE}"), ignore_merges=True
    ),
    "jais-2": PreTokenizer(
        (
            rf"{CONTRACTION}|{WORD}|{TRIPLES}|{SIGNS}|\s*[\r\n]+|"
            + "".join(rf"\s{{{n}}}(?!\S)|" for n in (512, 256, 128, 64, 32, 16, 8, 4))
            + r"\s{1,2}(?!\S)|\s{1}",
        )
    ),
    "bloom": _BLOOM,
    "poro-chat": _BLOOM,
    "gpt3-finnish": _BLOOM,
    "viking": PreTokenizer((BLOOM, DIGIT)),
    "chameleon": PreTokenizer(
        (
            "<sentinel:[0-9]+>",
            "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
            r"([\t\n]|    |  )",
            DIGIT,
            r"[\p{P}!-/:-@\[-`{-~]",
            GPT2,
        ),
        add_bos=True,
    ),
    "gemma4": _GEMMA4,
    "granite-embed-multi-311m": _GEMMA4,
    "sarvam-moe": PreTokenizer((NEWLINES,), byte_level=False),
}
