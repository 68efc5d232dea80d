"""Messages to prompt text by the model's chat template, a program written by a stranger.

It runs in a process of its own (chat_process.py), which the system stops when it takes too much
time or memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ggq.errors import TemplateError
from ggq.metadata import Metadata
from ggq.runtime import chat_process
from ggq.runtime.tokenizer import Tokenizer

TEMPLATE_KEY = "tokenizer.chat_template"
TOOLS_TEMPLATE_KEY = "tokenizer.chat_template.tool_use"
CHARACTERS_PER_TOKEN = 16
DEFAULT_CONTEXT = 4096

Message = dict[str, Any]


class Chat:
    """The chat template of a GGUF file."""

    def __init__(self, metadata: Metadata, tokenizer: Tokenizer) -> None:
        self._template = metadata.get_str(TEMPLATE_KEY, "")
        self._tools_template = metadata.get_str(TOOLS_TEMPLATE_KEY, self._template)
        architecture = metadata.get_str("general.architecture", "")
        n_ctx = metadata.get_int(f"{architecture}.context_length", DEFAULT_CONTEXT)
        self._max_characters = CHARACTERS_PER_TOKEN * max(n_ctx, DEFAULT_CONTEXT)
        self._special = _special_texts(tokenizer)

    @property
    def available(self) -> bool:
        """Whether the file has a template."""
        return bool(self._template)

    def render(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = True,
        *,
        tools: Sequence[dict[str, Any]] | None = None,
        **variables: Any,
    ) -> str:
        """The prompt for `messages`, dicts with "role" and "content".

        `variables` are further names the template may know, such as enable_thinking. If the
        template refuses a system message, its text goes in front of the next message.
        Raises TemplateError.
        """
        if not self.available:
            raise TemplateError("the model has no chat template; give it plain text")
        context = {
            "messages": list(messages),
            "tools": tools,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
            **self._special,
            **variables,
        }
        template = self._tools_template if tools else self._template
        most = self._max_characters
        answer = chat_process.render(template, context, most)
        if "refused" in answer and (merged := _without_system(messages)):
            answer = chat_process.render(template, context | {"messages": merged}, most)
        if "refused" in answer:
            raise TemplateError(f"the chat template refuses the messages: {answer['refused']}")
        if "broken" in answer:
            raise TemplateError(
                f"the chat template does not work: {answer['broken']}; "
                "give the model plain text (ggq-run: -no-cnv)"
            )
        return answer["text"]


def _special_texts(tokenizer: Tokenizer) -> dict[str, str]:
    roles = {"bos": tokenizer.bos, "eos": tokenizer.eos, "unk": tokenizer.unk, "pad": tokenizer.pad}
    return {
        f"{role}_token": tokenizer.token_text(token)
        for role, token in roles.items()
        if token is not None
    }


def _without_system(messages: Sequence[Message]) -> list[Message]:
    """`messages` with a leading system message merged into the next; none if there is none."""
    if len(messages) < 2 or messages[0].get("role") != "system":
        return []
    system, following, *rest = messages
    texts = (system.get("content"), following.get("content"))
    if not all(isinstance(text, str) for text in texts):
        return []
    return [{**following, "content": f"{texts[0]}\n{texts[1]}"}, *rest]
