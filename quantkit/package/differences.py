"""Where what Ollama makes of a conversation is not what the model's own chat template makes of it.

Two kinds of Ollama matter. An older one knows the TEMPLATE of the Modelfile only. A newer one renders the chat template
of the GGUF file where there is no TEMPLATE, and also where that template has words for tools or thinking and the
TEMPLATE has none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from quantkit.chat_template.format import ChatFormat, OwnTemplate, Shape

RENDERS_JINJA = "0.33.0"
"""A version of Ollama known to render the chat template of a GGUF file itself; older ones were not tried."""

ANY = "any Ollama"
_OLDER, _NEWER = f"Ollama before {RENDERS_JINJA}", f"Ollama from {RENDERS_JINJA}"


class Cause(StrEnum):
    """What a conversation has that Ollama writes otherwise; the shapes that were probed are the others."""

    WHITE_SPACE = "white space around a message"
    DATE = "today's date"
    ROW = "messages of one role in a row"


@dataclass(frozen=True)
class Difference:
    """One of them.

    Attributes:
        versions: the versions of Ollama it is of.
        text: what differs.
        usual: whether a build need not say it each time: every TEMPLATE has it, or few conversations show it.
        cause: what the conversations have that show it; None where it is no matter of conversations.
    """

    versions: str
    text: str
    usual: bool = False
    cause: Cause | Shape | None = None


def differences(
    chat: ChatFormat | OwnTemplate, *, forced: bool = False, own_template: bool = False
) -> tuple[Difference, ...]:
    """Everything that is known to differ, for the report and the card.

    Args:
        chat: how the model wants to be prompted.
        forced: whether the Modelfile forces the TEMPLATE upon an Ollama that would take the chat template.
        own_template: whether the TEMPLATE is one that the user brought, of which nothing is known.
    """
    return tuple(_differences(chat, forced, own_template))


def _differences(chat: ChatFormat | OwnTemplate, forced: bool, own_template: bool) -> Iterator[Difference]:
    if own_template:
        yield from _of_yours(forced)
    elif isinstance(chat, OwnTemplate):
        yield Difference(
            _NEWER,
            f"turns cannot describe the chat template: {chat.why}; so the Modelfile has no TEMPLATE, and Ollama "
            "renders the one in the GGUF file, as llama.cpp does",
        )
        yield Difference(
            _NEWER,
            "a chat template much like one of Ollama's own is taken for it; ollama create then says 'using "
            "autodetected template', and prompts may differ",
            usual=True,
        )
        yield Difference(_OLDER, "the Modelfile is refused: such a version would make up a prompt", usual=True)
    else:
        if chat.mentions_tools:
            yield from _with_tools(forced)
        yield from _of_turns(chat, _OLDER if chat.mentions_tools and not forced else ANY)


def _of_yours(forced: bool) -> Iterator[Difference]:
    yield Difference(
        ANY, "the TEMPLATE is the one you gave; whether it writes the chat template's prompts was not checked"
    )
    if not forced:
        yield Difference(
            _NEWER,
            "where the chat template has words for tools or thinking and the TEMPLATE has none, the chat template is "
            "taken from the GGUF file",
            usual=True,
        )


def _with_tools(forced: bool) -> Iterator[Difference]:
    if forced:
        yield Difference(
            _NEWER,
            "PARSER passthrough makes it take the TEMPLATE, which has no words for tools or thinking, though the chat "
            "template has",
        )
        yield Difference(_OLDER, "a version that does not know PARSER refuses the Modelfile; delete that line there")
        return
    yield Difference(_NEWER, "the chat template has words for tools or thinking, so it is taken from the GGUF file")
    yield Difference(_OLDER, "the TEMPLATE is taken, which has no words for tools or thinking")


def _of_turns(chat: ChatFormat, versions: str) -> Iterator[Difference]:
    if chat.trims or chat.uneven:
        whose = ", ".join(dict.fromkeys((*chat.trims, *chat.uneven)))
        strips = f"the chat template strips white space around messages of {whose}; a TEMPLATE cannot strip any"
        yield Difference(versions, strips, cause=Cause.WHITE_SPACE)
    if chat.dated:
        dated = "the chat template writes today's date; the TEMPLATE has its fixed one"
        yield Difference(versions, dated, cause=Cause.DATE)
    joined = "messages of one role in a row are joined with a blank line, and written as one turn"
    yield Difference(versions, joined, usual=True, cause=Cause.ROW)
    for shape in chat.unlike:
        yield Difference(versions, f"{shape} is written otherwise than by the chat template", usual=True, cause=shape)
    if chat.system is None:
        yield Difference(versions, "system messages are left out; the chat template takes none", usual=True)
