"""Known differences between Ollama's prompts and those of the model's own chat template.

They depend on the version of Ollama. An older one only knows the TEMPLATE of the Modelfile. A newer one renders the
chat template of the GGUF file if there is no TEMPLATE, and also if that template supports tools or thinking and the
TEMPLATE does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from quantkit.chat_template.format import ChatFormat, OwnTemplate, Shape

RENDERS_JINJA = "0.33.0"
"""A version of Ollama known to render the chat template of a GGUF file itself; older ones were not tested."""

ANY = "Ollama"
_OLDER, _NEWER = f"Ollama before {RENDERS_JINJA}", f"Ollama {RENDERS_JINJA} and later"


class Cause(StrEnum):
    """A property of conversations that Ollama writes differently, in addition to the probed :class:`Shape`."""

    WHITE_SPACE = "white space around a message"
    DATE = "today's date"
    ROW = "messages of one role in a row"


@dataclass(frozen=True)
class Difference:
    """One difference.

    Attributes:
        versions: the versions of Ollama it applies to.
        text: what differs.
        usual: whether builds need not mention it: every TEMPLATE has it, or few conversations show it.
        cause: the property of the conversations that show it; None if it does not depend on the conversation.
    """

    versions: str
    text: str
    usual: bool = False
    cause: Cause | Shape | None = None


def differences(
    chat: ChatFormat | OwnTemplate, *, forced: bool = False, own_template: bool = False
) -> tuple[Difference, ...]:
    """Return every known difference, for the report and the card.

    Args:
        chat: the model's chat format.
        forced: whether the Modelfile forces an Ollama that would use the chat template to use the TEMPLATE.
        own_template: whether the TEMPLATE is the user's own, about which nothing is known.
    """
    return tuple(_differences(chat, forced, own_template))


def _differences(chat: ChatFormat | OwnTemplate, forced: bool, own_template: bool) -> Iterator[Difference]:
    if own_template:
        yield from _of_yours(forced)
    elif isinstance(chat, OwnTemplate):
        yield Difference(
            _NEWER,
            f"a TEMPLATE cannot express the chat template: {chat.why}; so the Modelfile does not have one, and Ollama "
            "renders the chat template in the GGUF file, as llama.cpp does",
        )
        yield Difference(
            _NEWER,
            "Ollama may mistake the chat template for a similar built-in one; ollama create then says 'using "
            "autodetected template', and prompts may differ",
            usual=True,
        )
        yield Difference(
            _OLDER, "the Modelfile is refused, because such a version would guess the prompt format", usual=True
        )
    else:
        if chat.mentions_tools:
            yield from _with_tools(forced)
        yield from _of_turns(chat, _OLDER if chat.mentions_tools and not forced else ANY)


def _of_yours(forced: bool) -> Iterator[Difference]:
    yield Difference(
        ANY, "the TEMPLATE is your own; quantkit did not check whether it writes the chat template's prompts"
    )
    if not forced:
        yield Difference(
            _NEWER,
            "if the chat template supports tools or thinking and the TEMPLATE does not, the chat template in the GGUF "
            "file is used",
            usual=True,
        )


def _with_tools(forced: bool) -> Iterator[Difference]:
    if forced:
        yield Difference(
            _NEWER,
            "PARSER passthrough makes Ollama use the TEMPLATE, which does not support tools or thinking, although the "
            "chat template does",
        )
        yield Difference(_OLDER, "a version that does not know PARSER refuses the Modelfile; delete that line for it")
        return
    yield Difference(_NEWER, "the chat template supports tools or thinking, so the one in the GGUF file is used")
    yield Difference(_OLDER, "the TEMPLATE is used, which does not support tools or thinking")


def _of_turns(chat: ChatFormat, versions: str) -> Iterator[Difference]:
    if chat.trims or chat.uneven:
        whose = ", ".join(dict.fromkeys((*chat.trims, *chat.uneven)))
        strips = (
            f"spaces and blank lines around {whose} messages reach the model; its own chat template removes them "
            "(this rarely matters)"
        )
        yield Difference(versions, strips, cause=Cause.WHITE_SPACE)
    if chat.dated:
        dated = "the chat template writes today's date; the TEMPLATE always writes the same date"
        yield Difference(versions, dated, cause=Cause.DATE)
    joined = "consecutive messages of the same role are joined with a blank line into one turn"
    yield Difference(versions, joined, usual=True, cause=Cause.ROW)
    for shape in chat.unlike:
        yield Difference(versions, f"{shape} is written differently from the chat template", usual=True, cause=shape)
    if chat.system is None:
        yield Difference(versions, "system messages are left out; the chat template does not support them", usual=True)
