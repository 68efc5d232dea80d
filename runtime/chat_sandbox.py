"""The process a chat template runs in: request on stdin, answer on stdout, both JSON.

minijinja renders it; what it cannot, the sandbox of jinja2 does, which is the slower of the two but
understands everything that templates for transformers use. Both have the settings of transformers,
utils/chat_template_utils.py. Imports nothing of ggq, so that it starts quickly.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from typing import Any, NoReturn

Context = Mapping[str, Any]
Clock = Callable[[], None]

FUEL = 500_000
_GENERATION = re.compile(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}")


class RefusedError(Exception):
    """The template called raise_exception."""


class LimitReachedError(Exception):
    """The template did more than it may."""


def no_clock() -> None:
    """Start no clock."""


def with_minijinja(template: str, context: Context, clock: Clock = no_clock) -> str:
    """Text of `template`, of at most FUEL steps."""
    import minijinja

    env = minijinja.Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        fuel=FUEL,
        filters={"tojson": to_json},
        globals={"raise_exception": refuse, "strftime_now": now},
    )
    clock()
    try:
        return str(env.render_str(without_generation_marks(template), **context))
    except minijinja.TemplateError as error:
        if "ran out of fuel" in str(error):
            raise LimitReachedError(f"it takes more than {FUEL:,} steps") from None
        raise


def with_jinja2(template: str, context: Context, clock: Clock = no_clock) -> str:
    """Text of `template` as transformers makes it."""
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    env = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    env.filters["tojson"] = to_json
    env.globals["raise_exception"] = refuse
    env.globals["strftime_now"] = now
    clock()
    return env.from_string(without_generation_marks(template)).render(**context)


def without_generation_marks(template: str) -> str:
    """`template` with a block that means nothing in place of {% generation %}."""

    def plain(found: re.Match[str]) -> str:
        return f"{{%{found[1]} {'endif' if found[2] else 'if true'} {found[3]}%}}"

    return _GENERATION.sub(plain, template)


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON without the escapes for HTML that the engines' own filters add."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def refuse(message: str) -> NoReturn:
    """What templates call when the messages are not as they want them."""
    raise RefusedError(message)


def now(form: str) -> str:
    """The time, written as `form` says."""
    return datetime.now().strftime(form)


def limit_time(cpu_seconds: float) -> None:
    """Have the system end this process after so much more computing; 0 for no limit."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)


def limit_memory(more_bytes: int) -> None:
    """Have the system refuse this process more than so much further memory."""
    try:
        import resource

        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + more_bytes,) * 2)
    except (ImportError, OSError, ValueError):
        pass  # not on this system


def render(request: Mapping[str, Any]) -> str:
    """Text of the request's template. Raises RefusedError, LimitReachedError, and engines' errors.

    The clock runs only while a template does, not while its engine is loaded.
    """
    clock = partial(limit_time, request["cpu_seconds"])
    template, context, most = (request[k] for k in ("template", "context", "max_characters"))
    try:
        text = with_minijinja(template, context, clock)
    except (RefusedError, LimitReachedError):
        raise
    except Exception:
        limit_time(0)
        text = with_jinja2(template, context, clock)
    if len(text) > most:
        raise LimitReachedError(f"it makes {len(text):,} characters, and {most:,} are the limit")
    return text


def answer(request: Mapping[str, Any]) -> dict[str, str]:
    """What to reply: "text", or "refused" or "broken" with a reason."""
    try:
        return {"text": render(request)}
    except RefusedError as error:
        return {"refused": str(error)}
    except MemoryError:
        return {"broken": f"it wants more than {request['memory_bytes'] >> 20} MB of memory"}
    except Exception as error:
        return {"broken": str(error).partition("\n")[0] or type(error).__name__}


def main() -> None:
    """Answer one request, if one comes."""
    with contextlib.suppress(Exception):
        with_minijinja("", {})  # what is slow to load should be there when the request comes
    received = sys.stdin.buffer.read()
    if not received:
        return
    request = json.loads(received)
    limit_memory(request["memory_bytes"])
    json.dump(answer(request), sys.stdout)
    sys.stdout.flush()
    os._exit(0)  # somebody waits for this end, and there is nothing to clear away


if __name__ == "__main__":
    main()
