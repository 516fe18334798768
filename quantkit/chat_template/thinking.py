"""Fixes a chat template's choice between thinking and not thinking, inside the process for templates.

Templates of thinking models read a variable (``enable_thinking``; ``thinking`` in some families) that a caller of
transformers sets. llama.cpp and Ollama set ``enable_thinking`` to true unless a request says otherwise, also for a
model that was trained without thoughts. The choice is made by a line that sets the variable before the template's own
text. It is proven: for many conversations the new template, whatever it is told, writes what the old one writes when it
is told the choice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from quantkit.chat_template.render import Message
from quantkit.chat_template.sandbox import render_undated
from quantkit.errors import ChatFormatError

# What llama.cpp and Ollama set comes first.
SWITCHES = ("enable_thinking", "thinking")

_THOUGHT = "<think>\nTwo and two.\n</think>\n\nIt is 4."
_TURNS: Sequence[Message] = (
    {"role": "user", "content": "What is 2+2? 二加二？"},
    {"role": "assistant", "content": _THOUGHT},
    {"role": "user", "content": "Sure? /no_think"},
    {"role": "assistant", "content": "Yes."},
    {"role": "user", "content": "Thanks {{ braces }} {% tags %} <think>"},
)
_SYSTEM: Message = {"role": "system", "content": "You are a helpful assistant. 你是一个乐于助人的助手。"}


@dataclass(frozen=True)
class Thinking:
    """What a template does with thoughts.

    Attributes:
        switches: the variables that change its prompts.
        on_as_is: whether it thinks if a program sets ``enable_thinking`` and nothing else, as llama.cpp does.
    """

    switches: tuple[str, ...]
    on_as_is: bool


@dataclass(frozen=True)
class Baked:
    """A template with its choice made."""

    template: str


def find_thinking(template: str, *, bos_token: str, eos_token: str) -> Thinking:
    """Find the variables with which prompts think or do not think.

    Args:
        template: the Jinja text.
        bos_token: text of the model's beginning-of-sequence token, "" if it has none.
        eos_token: text of its end-of-sequence token, "" if it has none.

    Raises:
        ChatFormatError: the template does not parse, or refuses every conversation.
    """
    writer = _Writer(template, bos_token, eos_token)
    read = [name for name in SWITCHES if name in template]
    found = tuple(name for name in read if writer.prompts({name: True}) != writer.prompts({name: False}))
    on = writer.prompts(dict.fromkeys(found, True)) if found else ()
    return Thinking(found, bool(found) and writer.prompts({SWITCHES[0]: True}) == on)


def bake_thinking(template: str, *, thinking: bool, bos_token: str, eos_token: str) -> Baked:
    """Write the choice into a template, and prove it.

    Args:
        template: the Jinja text.
        thinking: the choice.
        bos_token, eos_token: as for :func:`find_thinking`.

    Raises:
        ChatFormatError: the template has no such choice, or the line changes something else.
    """
    switches = find_thinking(template, bos_token=bos_token, eos_token=eos_token).switches
    if not switches:
        raise ChatFormatError(f"the chat template has no choice of thinking: it reads neither {' nor '.join(SWITCHES)}")
    # The line end belongs to the line: Jinja drops it, and the template's own text still begins a line.
    lines = "".join(f"{{% set {name} = {str(thinking).lower()} %}}\n" for name in switches)
    wanted = _Writer(template, bos_token, eos_token).prompts(dict.fromkeys(switches, thinking))
    baked = _Writer(lines + template, bos_token, eos_token)
    told: list[dict[str, bool]] = [{}, *({name: value} for name in switches for value in (True, False))]
    if any(baked.prompts(one) != wanted for one in told):
        raise ChatFormatError(f"the chat template decides about thinking in more ways than {' and '.join(switches)}")
    return Baked(baked.template)


@dataclass(frozen=True)
class _Writer:
    """Renders the probing conversations with a template."""

    template: str
    bos_token: str
    eos_token: str

    def prompts(self, told: Mapping[str, bool]) -> tuple[str | None, ...]:
        """The text of every conversation, None where the template refuses it.

        Raises:
            ChatFormatError: it refuses all of them; with the reason for the last.
        """
        texts: list[str | None] = []
        refusal: ChatFormatError | None = None
        for messages, asked in _conversations():
            try:
                texts.append(self._write(messages, asked, told))
            except ChatFormatError as error:
                refusal = error
                texts.append(None)
        if refusal is not None and all(text is None for text in texts):
            raise refusal
        return tuple(texts)

    def _write(self, messages: Sequence[Message], asked: bool, told: Mapping[str, bool]) -> str:
        tokens = {"bos_token": self.bos_token, "eos_token": self.eos_token}
        return render_undated(self.template, messages, **tokens, add_generation_prompt=asked, told=told)


def _conversations() -> Iterator[tuple[Sequence[Message], bool]]:
    """Conversations of one to three questions, with and without a system message, asked and not."""
    for opening in ((), (_SYSTEM,)):
        for length in range(1, len(_TURNS) + 1):
            asks = (True, False) if length % 2 else (False,)
            yield from (((*opening, *_TURNS[:length]), asked) for asked in asks)
