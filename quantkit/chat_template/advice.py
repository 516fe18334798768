"""Notes on a chat template that writes a prompt which the model cannot have been trained on, with what mends it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from quantkit.chat_template.format import FORMAT_NAMES, named_format
from quantkit.chat_template.opening import Opening, opening_fault
from quantkit.chat_template.render import ask
from quantkit.chat_template.thinking import Thinking
from quantkit.chat_template.turns import ChatFormat, OwnTemplate
from quantkit.errors import ChatFormatError


def opening_notes(
    template: str, chat: ChatFormat | OwnTemplate, *, bos_token: str, eos_token: str, built: bool = False
) -> list[str]:
    """A note if the template opens no answer, or opens it otherwise than past answers.

    Args:
        template: the Jinja text of the chat template that the files get.
        chat: its description.
        bos_token: text of the model's beginning-of-sequence token, "" if it has none.
        eos_token: text of its end-of-sequence token, "" if it has none.
        built: whether the template is in a finished file, where --template cannot change it.
    """
    try:
        opening = ask(
            "opening", lambda found: Opening(**found), template=template, bos_token=bos_token, eos_token=eos_token
        )
    except ChatFormatError:
        return []  # it has no plain earlier answers to compare with
    fault = opening_fault(opening)
    first = "build the file again from its checkpoint: " if built else ""
    return [f"the chat template {fault}; {first}{_remedy(chat, opening)}"] if fault else []


def thinking_notes(template: str, *, bos_token: str, eos_token: str) -> list[str]:
    """A note if the template lets the model think unless a program says otherwise, with the option that decides.

    Args:
        template: the Jinja text of the chat template that the files get.
        bos_token: text of the model's beginning-of-sequence token, "" if it has none.
        eos_token: text of its end-of-sequence token, "" if it has none.
    """
    try:
        found = ask("thinking", _thinking, template=template, bos_token=bos_token, eos_token=eos_token)
    except ChatFormatError:
        return []
    if not found.on_as_is:
        return []
    return [
        f"the chat template lets the model think in llama.cpp and Ollama ({' and '.join(found.switches)}): if it was "
        "trained without thoughts, pass --thinking off"
    ]


def bake_named(
    named: Sequence[tuple[str, str]], thinking: str | None, *, bos_token: str, eos_token: str
) -> tuple[tuple[str, str], ...]:
    """Further chat templates, by name, with the choice written into those that leave it to the program.

    Raises:
        ChatFormatError: one makes the choice in other ways too.
    """
    special = {"bos_token": bos_token, "eos_token": eos_token}

    def chosen(template: str) -> str:
        try:
            switches = ask("thinking", _thinking, template=template, **special).switches
        except ChatFormatError:
            return template  # it refuses plain conversations, and nothing can be proven
        return bake(template, str(thinking), **special) if switches else template

    return tuple((name, text if thinking is None else chosen(text)) for name, text in named)


def bake(template: str, thinking: str, *, bos_token: str, eos_token: str) -> str:
    """The template with ``--thinking on`` or ``off`` written into it, and proven.

    Raises:
        ChatFormatError: it has no such choice, or makes it in other ways too.
    """
    try:
        arguments = {"template": template, "bos_token": bos_token, "eos_token": eos_token}
        return ask("bake", lambda found: str(found["template"]), thinking=thinking == "on", **arguments)
    except ChatFormatError as error:
        raise ChatFormatError(
            f"--thinking {thinking}: {error}",
            hint="leave --thinking out, or give the template that the model was trained with as --template FILE",
        ) from None


def _remedy(chat: ChatFormat | OwnTemplate, opening: Opening) -> str:
    for name in FORMAT_NAMES:
        known = named_format(name)
        same = isinstance(chat, ChatFormat) and (known.user, known.assistant) == (chat.user, chat.assistant)
        if same and known.generation.strip():
            return f"--template {name} has the same turns and opens it with {known.generation!r}"
    if opening.asked.strip():
        return "correct a copy of the template and give it as --template FILE"
    ending = "{% if add_generation_prompt %}{{ " + repr(opening.past) + " }}{% endif %}"
    return f"append {ending} to a copy of the template and give it as --template FILE"


def _thinking(found: dict[str, Any]) -> Thinking:
    return Thinking(**found)
