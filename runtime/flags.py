"""The flags of ggq-run: names, meaning and defaults as in llama.cpp (common/arg.cpp)."""

from __future__ import annotations

import argparse

from ggq.cli_support import Parser
from ggq.runtime.sampler_params import SamplerParams

RANDOM_SEED = 2**32 - 1  # llama.cpp's way to write -1 in 32 bits
DEFAULTS = SamplerParams()
CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0")  # kernels/cache_types.py has them


def parser() -> Parser:
    """The command line of ggq-run."""
    p = Parser("ggq-run", "Run a GGUF model: answer a prompt, or converse on a terminal.")
    p.add_argument("name", nargs="?", metavar="MODEL", help="GGUF file or org/name[:QUANT]")
    model = p.add_argument_group("model")
    model.add_argument("-m", "--model", metavar="FILE", help="the same as a flag")
    model.add_argument(
        "-hf", "-hfr", "--hf-repo", metavar="ORG/NAME[:QUANT]",
        help="model from the Hugging Face hub; without QUANT Q4_K_M, then Q8_0, then the first",
    )  # fmt: skip
    model.add_argument("-c", "--ctx-size", type=_count, default=0, metavar="N",
                       help="positions of the context; 0: the model's")  # fmt: skip
    model.add_argument("-t", "--threads", type=int, default=0, metavar="N",
                       help="threads; 0: one per core")  # fmt: skip
    model.add_argument("--exact", action="store_true",
                       help="do not round activations: slower, exact logits")  # fmt: skip
    for letter, what in (("k", "keys"), ("v", "values")):
        model.add_argument(f"-ct{letter}", f"--cache-type-{letter}", choices=CACHE_TYPES,
                           default="f16", help=f"how {what} are kept (default: f16)")  # fmt: skip
    model.add_argument("--warm-up", action="store_true",
                       help="only compile kernels: MODEL's, or all without one")  # fmt: skip
    model.add_argument("--profile", action="store_true",
                       help="tell where time went: per kernel, per layer, at barriers")  # fmt: skip
    model.add_argument("--no-mmap", action="store_true",
                       help="read the file into memory instead of mapping it")  # fmt: skip
    model.add_argument("-ngl", "--gpu-layers", "--n-gpu-layers", metavar="N",
                       help="accepted and ignored: ggq computes on the CPU")  # fmt: skip
    _add_prompt(p.add_argument_group("prompt"))
    _add_sampling(p.add_argument_group("sampling"))
    return p


def sampling(args: argparse.Namespace) -> SamplerParams:
    """The sampler settings of a command line. Raises UsageError."""
    return SamplerParams(
        seed=-1 if args.seed == RANDOM_SEED else args.seed,
        temp=args.temp,
        top_k=args.top_k,
        top_p=args.top_p,
        min_p=args.min_p,
        repeat_last_n=args.repeat_last_n,
        repeat_penalty=args.repeat_penalty,
        presence_penalty=args.presence_penalty,
        frequency_penalty=args.frequency_penalty,
    )


def _add_prompt(p: argparse._ArgumentGroup) -> None:
    source = p.add_mutually_exclusive_group()
    source.add_argument("-p", "--prompt", metavar="TEXT",
                        help="the prompt; - or a pipe: standard input")  # fmt: skip
    source.add_argument("-f", "--file", metavar="FILE", help="file with the prompt")
    p.add_argument("-sys", "--system-prompt", metavar="TEXT", help="the system message")
    p.add_argument("--no-escape", action="store_true",
                   help=r"leave \n, \t, \\, \xNN in -p as they are")  # fmt: skip
    p.add_argument("-n", "--predict", "--n-predict", type=int, default=-1, metavar="N",
                   help="most tokens to write; -1: until the end or a full context")  # fmt: skip
    chat = p.add_mutually_exclusive_group()
    chat.add_argument("-cnv", "--conversation", dest="chat", action="store_true", default=None,
                      help="go on conversing after the prompt (on a terminal)")  # fmt: skip
    chat.add_argument("-no-cnv", "--no-conversation", dest="chat", action="store_false",
                      help="give the prompt as it is, without chat template")  # fmt: skip
    p.add_argument("-st", "--single-turn", action="store_true", help="one answer, then exit")
    p.add_argument("--no-display-prompt", action="store_true",
                   help="accepted; the prompt is never repeated")  # fmt: skip


def _add_sampling(p: argparse._ArgumentGroup) -> None:
    def number(*flags: str, type: type = float, text: str, default: float) -> None:
        p.add_argument(*flags, type=type, default=default, metavar="N",
                       help=f"{text} (default: {default})")  # fmt: skip

    d = DEFAULTS
    number("-s", "--seed", type=int, default=d.seed, text="seed of the draws; -1: random")
    number("--temp", default=d.temp, text="temperature; 0: always the likeliest token")
    number("--top-k", type=int, default=d.top_k, text="keep the k likeliest; 0: off")
    number("--top-p", default=d.top_p, text="keep the likeliest that make up p; 1: off")
    number("--min-p", default=d.min_p, text="keep those with p of the likeliest's chance; 0: off")
    number("--repeat-last-n", type=int, default=d.repeat_last_n, text="what penalties look back on")
    number("--repeat-penalty", default=d.repeat_penalty, text="divisor of repeated tokens; 1: off")
    number("--presence-penalty", default=d.presence_penalty, text="off what occurred; 0: off")
    number("--frequency-penalty", default=d.frequency_penalty, text="off per occurrence; 0: off")
    p.add_argument("--ignore-eos", action="store_true", help="never let the model end the text")


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is negative")
    return value
