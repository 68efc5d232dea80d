"""ggq-run: run a GGUF model. Stdout holds the new text and nothing else."""

from __future__ import annotations

import argparse
import contextlib
import math
import re
import sys
from collections.abc import Generator, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from ggq.cli_support import heed_interrupts_again, run
from ggq.errors import UsageError
from ggq.runtime.flags import parser, sampling

if TYPE_CHECKING:
    from ggq.runtime.generation import Chunk
    from ggq.runtime.model import Model
    from ggq.runtime.sampler_params import SamplerParams
    from ggq.runtime.session import Session
    from ggq.runtime.timings import Timings

PROG = "ggq-run"
# What could move the cursor or give the terminal orders; a model's text may hold anything.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def main() -> int:
    """Entry point of the command; returns the exit code."""
    return run(lambda: _run(parser().parse_args()), PROG)


def _run(args: argparse.Namespace) -> int:
    names = [name for name in (args.name, args.model, args.hf_repo) if name]
    if args.warm_up and len(names) < 2:
        return _warm_up(args, bool(names))
    if len(names) != 1:
        raise UsageError(f"wanted one model (MODEL, -m or -hf), got {len(names)}; see --help")
    params = sampling(args)
    if args.chat is not False:
        from ggq.runtime import chat_process

        chat_process.start_ahead()

    from ggq.runtime.prompt import read_prompt
    from ggq.runtime.timings import Timings

    prompt = read_prompt(args.prompt, args.file, escapes=not args.no_escape) or None
    if prompt is None and not (sys.stdin.isatty() and args.chat is not False):
        raise UsageError("no prompt; give one with -p, -f or a pipe")
    if args.gpu_layers is not None:
        note("-ngl is ignored: ggq computes on the CPU")
    timings = Timings()
    with timings.load.measure():
        model = load_model(args)
        end_tokens = model.tokenizer.eog
    if args.ctx_size > model.hparams.n_ctx:
        note(f"the model was trained for {model.hparams.n_ctx:,} tokens, not {args.ctx_size:,}")
    if args.ignore_eos:
        params = replace(params, logit_bias=dict.fromkeys(end_tokens, -math.inf))
    try:
        if args.chat or (args.chat is None and model.chat_template.available):
            _converse(args, model, params, prompt, timings)
        else:
            _complete(args, model, params, prompt, timings)
    except KeyboardInterrupt:
        _tell_timings(timings)
        raise
    _tell_timings(timings)
    return 0


def _warm_up(args: argparse.Namespace, has_model: bool) -> int:
    """Compile what a model needs, or every kernel there is."""
    from ggq.runtime.warm_up import compile_everything

    if has_model:
        with load_model(args) as model:
            model.session(1).warm_up()
        note("every kernel of this model is compiled")
    else:
        compiled = compile_everything(PROG)
        note(f"{compiled} kernels were compiled; all there are are kept now")
    return 0


def load_model(args: argparse.Namespace) -> Model:
    """The model of a command line. Raises NotFoundError, FormatError, UnsupportedModelError."""
    from ggq.jit import watch
    from ggq.runtime.hub import fetch, find_model, hub_name
    from ggq.runtime.model import load
    from ggq.runtime.progress import CompileProgress

    watch(CompileProgress(PROG))

    path = fetch(hub_name(args.hf_repo)) if args.hf_repo else find_model(args.model or args.name)
    return load(
        path, n_threads=max(args.threads, 0), mapped=not args.no_mmap, exact=args.exact,
        cache_type_k=args.cache_type_k, cache_type_v=args.cache_type_v,
    )  # fmt: skip


def _complete(
    args: argparse.Namespace,
    model: Model,
    params: SamplerParams,
    prompt: str | None,
    timings: Timings,
) -> None:
    """Continue the prompt as it is."""
    from ggq.runtime.generation import stream
    from ggq.runtime.sampler import Sampler

    if args.system_prompt:
        note("-sys is ignored: without a chat template there is no system message")
    if prompt is None:
        raise UsageError("the model has no chat template to converse with; give a prompt with -p")
    sampler = Sampler(params)
    _tell_seed(params, sampler.seed)
    tokens = model.tokenizer.encode(prompt)
    session = model.session(args.ctx_size)
    answer = stream(
        session, model.tokenizer, tokens, sampler, max_tokens=args.predict, timings=timings
    )
    with _profiling(session, args.profile):
        _show(answer, session.n_ctx)


def _converse(
    args: argparse.Namespace,
    model: Model,
    params: SamplerParams,
    prompt: str | None,
    timings: Timings,
) -> None:
    """Answer the prompt, then what is typed; Ctrl-C ends the answer, not the conversation."""
    from ggq.runtime.conversation import Conversation
    from ggq.runtime.sampler import Sampler

    goes_on = sys.stdin.isatty() and not args.single_turn and (prompt is None or args.chat)
    sampler = Sampler(params)
    _tell_seed(params, sampler.seed)
    session = model.session(args.ctx_size)
    talk = Conversation(session, model.tokenizer, model.chat_template, sampler, args.system_prompt)
    with _profiling(session, args.profile):
        for question in _questions(prompt, goes_on):
            try:
                answer = talk.ask(question, max_tokens=args.predict, timings=timings)
                if _show(answer, session.n_ctx) == "context":
                    break
            except KeyboardInterrupt:
                if not goes_on:
                    raise
                heed_interrupts_again()


@contextlib.contextmanager
def _profiling(session: Session, wanted: bool) -> Iterator[None]:
    """Measure the runs within, if wanted, and tell at the end where their time went."""
    if not wanted:
        yield
        return
    with session.profile() as profile:
        try:
            yield
        finally:
            print(f"\n{profile}", file=sys.stderr)


def _questions(prompt: str | None, goes_on: bool) -> Iterator[str]:
    """The prompt, then the lines typed until Ctrl-D."""
    if prompt is not None:
        yield prompt
    if prompt is not None and not goes_on:
        return
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  # line editing in input()
    while True:
        try:
            line = _typed_line()
        except EOFError:
            return
        if line.strip():
            yield line
            if not goes_on:
                return


def _typed_line() -> str:
    if sys.stdout.isatty():
        return input("> ")
    print("> ", end="", file=sys.stderr, flush=True)
    return input()


def _show(chunks: Generator[Chunk], n_ctx: int) -> str | None:
    """Write an answer as it comes, and a newline; why it ended. Its rest is given up on errors."""
    plain = not sys.stdout.isatty()
    chunk = None
    try:
        with contextlib.closing(chunks):
            for chunk in chunks:
                if chunk.text:
                    sys.stdout.write(chunk.text if plain else _CONTROL.sub("", chunk.text))
                    sys.stdout.flush()
    finally:
        if chunk:
            sys.stdout.write("\n")
            sys.stdout.flush()
    reason = chunk.finish_reason if chunk else None
    if reason == "context":
        note(f"the context of {n_ctx:,} tokens is full; -c enlarges it")
    return reason


def _tell_timings(timings: Timings) -> None:
    print("", *timings.lines("ggq_perf_print"), sep="\n", file=sys.stderr)


def _tell_seed(params: SamplerParams, seed: int) -> None:
    if params.temp > 0 and params.seed < 0:
        note(f"sampler seed: {seed}")


def note(text: str) -> None:
    """A remark for people, on stderr."""
    print(f"{PROG}: {text}", file=sys.stderr)


if __name__ == "__main__":
    raise SystemExit(main())
