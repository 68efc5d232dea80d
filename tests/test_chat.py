"""Chat templates: what two engines make of published ones, and what malicious ones cannot do."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ggq.errors import TemplateError
from ggq.metadata import Metadata
from ggq.reader import Reader
from ggq.runtime import chat_sandbox
from ggq.runtime.chat import Chat
from ggq.runtime.tokenizer import from_metadata
from ggq.spec import ValueType
from tests import vocabularies
from tests.llama_server import LlamaServer

MESSAGES = [
    {"role": "system", "content": "You are helpful. <b>"},
    {"role": "user", "content": 'Hi "there" é'},
    {"role": "assistant", "content": "Hello!"},
    {"role": "user", "content": "Bye\n"},
]
TOOL = {
    "type": "function",
    "function": {
        "name": "get",
        "description": 'd "x" <y>',
        "parameters": {
            "type": "object",
            "properties": {"z": {"type": "string", "description": "q"}},
            "required": ["z"],
        },
    },
}
QUESTION = [{"role": "user", "content": "hi"}]

# What the engines differ in: (template, with tools) -> the engine that can, or what differs.
KNOWN = {
    ("CohereForAI-c4ai-command-r-plus-tool_use", False): "minijinja",
    ("NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use", False): "minijinja",
    ("NousResearch-Hermes-3-Llama-3.1-8B-tool_use", False): "minijinja",
    ("llama-cpp-deepseek-r1", True): "minijinja",
    ("NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", False): "jinja2",
    ("Qwen3-Coder", False): "jinja2",
    ("fireworks-ai-llama-3-firefunction-v2", False): "neither",
    ("fireworks-ai-llama-3-firefunction-v2", True): "neither",
    # jinja2 escapes JSON for HTML when it is added to a text marked as safe.
    ("meetkai-functionary-medium-v3.1", True): "escapes",
}


def chat(template: str | None, **keys: str) -> Chat:
    metadata = vocabularies.spm({"▁": -1.0, "a": -2.0})
    if template is not None:
        metadata.set("tokenizer.chat_template", template, ValueType.STRING)
    for key, value in keys.items():
        metadata.set(f"tokenizer.chat_template.{key}", value, ValueType.STRING)
    return Chat(metadata, from_metadata(metadata))


def outcome(engine: Any, template: str, context: dict[str, Any]) -> str | None:
    """What `engine` makes of it, "refused: ..." if the template says no, None if it fails."""
    try:
        text: str = engine(template, context)
    except chat_sandbox.RefusedError as error:
        return f"refused: {error}"
    except Exception:
        return None
    return text


def test_both_engines_make_the_same_of_published_templates(llama_cpp_tree: Path) -> None:
    paths = sorted((llama_cpp_tree / "models" / "templates").glob("*.jinja"))
    assert len(paths) >= 70
    for path in paths:
        template = path.read_text(encoding="utf-8")
        for tools in (None, [TOOL]):
            context = {"messages": MESSAGES, "tools": tools, "documents": None}
            context |= {"add_generation_prompt": True, "bos_token": "<s>", "eos_token": "</s>"}
            first = outcome(chat_sandbox.with_minijinja, template, context)
            second = outcome(chat_sandbox.with_jinja2, template, context)
            able = {(True, False): "minijinja", (False, True): "jinja2", (False, False): "neither"}
            found = able.get((first is not None, second is not None))
            if found is None and first != second:
                found = "escapes" if "&#34;" in str(second) else "differ"
            assert found == KNOWN.get((path.stem, tools is not None)), path.stem


def test_same_prompt_as_llama_cpp(smollm2: Path) -> None:
    metadata = Reader(smollm2).metadata
    ours = Chat(metadata, from_metadata(metadata))
    with LlamaServer(smollm2, n_ctx=64) as server:
        for messages in (QUESTION, MESSAGES):
            theirs = server._post("/apply-template", {"messages": messages})["prompt"]
            assert ours.render(messages) == theirs


def test_settings_are_those_of_transformers() -> None:
    template = (
        "{% for message in messages %}\n"
        "  {% if loop.index > 2 %}{% break %}{% endif %}\n"
        "  {{- message.role }}:\n"
        "  {%- generation %}{{ message.content | tojson }}{% endgeneration -%}\n"
        "{% endfor %}\n"
        "{{ bos_token }}{{ eos_token }}{{ unk_token }}|{{ pad_token }}|{{ tools is none }}"
        "{{ strftime_now('%Y')|length }}{% if add_generation_prompt %}!{% endif %}{{ extra }}"
    )
    text = chat(template).render([{"role": "a", "content": "<é>"}] * 3, extra="x")
    assert text == 'a:"<é>"a:"<é>"<s></s><unk>||True4!x'
    context = {"messages": [], "bos_token": "", "eos_token": "", "unk_token": "", "tools": None}
    assert chat_sandbox.with_jinja2(template, context) == chat_sandbox.with_minijinja(
        template, context
    )


def test_what_minijinja_cannot_jinja2_does() -> None:
    assert chat("{{ messages|map(attribute='content')|list|join('') }}").render(QUESTION) == "hi"
    assert chat("{{ 'a'.__len__ is defined }}{{ 2 ** 3 }}{{ none|length }}|").available
    assert chat("{{ '%03d' % 7 }}").render(QUESTION) == "007"


def test_a_template_that_takes_no_system_message_gets_it_with_the_question() -> None:
    template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "{{ messages[0].content }}"
    )
    asked = [{"role": "system", "content": "Be short."}, *QUESTION]
    assert chat(template).render(asked) == "Be short.\nhi"
    with pytest.raises(TemplateError, match="refuses the messages: no system"):
        chat(template).render(asked[:1])


def test_tools_have_a_template_of_their_own() -> None:
    both = chat("plain", tool_use="tools: {{ tools[0].function.name }}")
    assert both.render(QUESTION) == "plain"
    assert both.render(QUESTION, tools=[TOOL]) == "tools: get"
    assert chat("plain").render(QUESTION, tools=[TOOL]) == "plain"


def test_a_file_without_template() -> None:
    assert not chat(None).available
    with pytest.raises(TemplateError, match="no chat template"):
        chat(None).render(QUESTION)
    assert not Chat(Metadata(), from_metadata(vocabularies.spm({"a": 0.0}))).available


def test_bos_of_the_template_is_the_only_one() -> None:
    metadata = vocabularies.spm({"▁": -1.0, "a": -2.0, "▁a": -3.0})
    metadata.set("tokenizer.chat_template", "{{ bos_token }}a", ValueType.STRING)
    tokenizer = from_metadata(metadata)
    prompt = Chat(metadata, tokenizer).render(QUESTION)
    assert tokenizer.encode(prompt) == [1, tokenizer.token_id("▁a")]


GROW = "{% set ns = namespace(x='x' * 1000) %}{% for i in range(40) %}"
PAYLOADS = {
    "nested loops": "{% for i in range(99999) %}" * 2 + "{% endfor %}" * 2,
    "huge range": "{% for i in range(10 ** 12) %}x{% endfor %}",
    "much output": "{% for i in range(90000) %}{{ 'x' * 1000 }}{% endfor %}",
    "repeat": "{{ 'x' * 2000000000 }}",
    "repeat twice": "{{ ('x' * 100000) * 100000 }}",
    "repeat list": "{{ ([1] * 1000000000)|length }}",
    "concatenate": GROW + "{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x|length }}",
    "add": GROW + "{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x|length }}",
    "join": GROW + "{% set ns.x = [ns.x, ns.x]|join %}{% endfor %}{{ ns.x|length }}",
    "replace": GROW + "{% set ns.x = ns.x|replace('x', 'xxxx') %}{% endfor %}{{ ns.x|length }}",
    "format": "{{ '%0999999999d'|format(1) }}",
    "percent": "{{ '%0999999999d' % 1 }}",
    "center": "{{ 'x'|center(2000000000) }}",
    "ljust": "{{ 'x'.ljust(2000000000) }}",
    "indent": "{{ ('\n' * 100000)|indent(100000) }}",
    "power": "{{ 10 ** (10 ** 9) }}",
    "recursive macro": "{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}",
    "deep nesting": "{{ " + "(" * 50000 + "1" + ")" * 50000 + " }}",
    "deep blocks": "{% if 1 %}" * 20000 + "{% endif %}" * 20000,
    "self include": "{% include 'x' %}",
    "regex of jinja2": "{{ ('a' * 40)|urlize }}{{ ('a@' * 100000)|urlize }}",
    "subclasses": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ cycler.__init__.__globals__.os.popen('touch CANARY').read() }}",
    "import": "{{ self.__init__.__globals__.__builtins__.open('CANARY', 'w').write('x') }}",
    "attr filter": "{{ (''|attr('__class__'))|attr('__mro__') }}{{ joiner|attr('__globals__') }}",
    "format string": "{{ '{0.__class__.__mro__}'.format('') }}",
    "change messages": "{{ messages.append(1) }}{{ messages.clear() }}",
    "syntax": "{{ foo.bar",
}


@pytest.mark.parametrize("name", PAYLOADS)
def test_malicious_templates_are_stopped(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary = tmp_path / "canary"
    monkeypatch.chdir(tmp_path)
    hostile = chat(PAYLOADS[name].replace("CANARY", str(canary)))
    text = ""
    with contextlib.suppress(TemplateError):
        text = hostile.render(QUESTION)
    assert len(text) < 110
    assert "class" not in text
    assert not canary.exists()


def test_time_and_memory_are_limited_by_the_system() -> None:
    with pytest.raises(TemplateError, match=r"more than 0\.5 seconds of computing or 256 MB"):
        chat("{{ '%0999999999d'|format(1) }}").render(QUESTION)
    greedy = (
        "from ggq.runtime.chat_sandbox import limit_memory; limit_memory(256 << 20);"
        "len(bytearray(200 << 20)); print('fits');"
        "len(bytearray(300 << 20))"
    )
    done = subprocess.run([sys.executable, "-c", greedy], capture_output=True, text=True)
    assert done.stdout == "fits\n"
    assert "MemoryError" in done.stderr
    slow = (
        "from ggq.runtime.chat_sandbox import limit_time; limit_time(0.05);"
        "[None for _ in iter(int, 1)]"
    )
    assert subprocess.run([sys.executable, "-c", slow], check=False).returncode == -signal.SIGPROF


def test_limits_leave_room_for_long_conversations() -> None:
    long = [{"role": "user", "content": "word " * 5000}, {"role": "assistant", "content": "ok"}]
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    conversation = long + [{"role": "user", "content": "x"}] * 2000
    assert len(chat(template).render(conversation)) == 25000 + 6 + 11 + 2 + 2000 * 7
    with pytest.raises(TemplateError, match="makes 75,018 characters, and 65,536 are the limit"):
        chat(template).render([long[0]] * 3)
