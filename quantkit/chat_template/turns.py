"""The values that describe how a model wants to be prompted.

:class:`ChatFormat` has the text around each turn, and what ends one. :class:`OwnTemplate` is what remains where turns
cannot say it: what ends an answer, and why only the model's own template can write the prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from quantkit.chat_template.render import Message
from quantkit.errors import ChatFormatError


class SystemPlace(StrEnum):
    """Where a system message is written.

    In a question, the prefix of the system turn begins with that of the question, which is not written again.
    """

    TURN = "a turn of its own"
    FIRST = "in the first question"
    LAST = "in the last question"


class Shape(StrEnum):
    """Conversations of which turns make something, and a chat template perhaps something else."""

    EMPTY_SYSTEM = "an empty system message"
    LATE_SYSTEM = "a system message that comes late"
    SECOND_SYSTEM = "a second system message"
    EMPTY_ANSWER = "an empty answer"
    ANSWER_FIRST = "an answer as the first message"
    ANSWER_LAST = "an answer as the last message"


@dataclass(frozen=True)
class Turn:
    """The fixed text around the content of one message."""

    prefix: str
    suffix: str

    def around(self, content: str) -> str:
        """The rendered message."""
        return self.prefix + content + self.suffix


@dataclass(frozen=True)
class ChatFormat:
    """A conversation format: a prompt is ``bos``, the turns one after the other, and ``generation``.

    Attributes:
        name: of the named format with these turns, else "generic".
        bos: literal beginning-of-sequence text of a rendered prompt; "" if there is none.
        system: the system turn; None where the template takes no system message.
        user: the user turn.
        assistant: the turn of an answer that was given.
        generation: what asks for an answer; often the prefix of one.
        stops: texts that end an assistant turn.
        trims: roles whose contents lose the white space around them.
        default_system: the system text that the template inserts when there is none ("" is an empty system turn).
        system_place: where the system turn stands.
        uneven: roles with further rules for the white space around contents, for which turns have no words.
        unlike: conversations that the template writes otherwise than :meth:`render`.
        mentions_tools: whether the template's source speaks of tools or thinking, for which turns have no words.
        dated: whether the template writes today's date; the turns then hold the fixed date of its fallback.
    """

    name: str
    bos: str
    system: Turn | None
    user: Turn
    assistant: Turn
    generation: str
    stops: tuple[str, ...]
    trims: tuple[str, ...] = ()
    default_system: str | None = None
    system_place: SystemPlace = SystemPlace.TURN
    uneven: tuple[str, ...] = ()
    unlike: tuple[Shape, ...] = ()
    mentions_tools: bool = False
    dated: bool = False

    @property
    def takes_system(self) -> bool:
        """Whether a conversation can have a system message."""
        return self.system is not None

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> str:
        """Render a conversation of user, assistant and system messages.

        Where system messages stand in a question, they are joined with a blank line; else each is a turn of its own.

        Raises:
            ChatFormatError: an unknown role, or a system message that the format does not take.
        """
        turns = [(self._turn(message["role"], i), self._content(message)) for i, message in enumerate(messages, 1)]
        systems = [content for turn, content in turns if turn is self.system]
        if self.system_place is SystemPlace.TURN:
            opening = None if turns and turns[0][0] is self.system else self.default_system
            carrier = None
        else:
            turns = [(turn, content) for turn, content in turns if turn is not self.system]
            opening = "\n\n".join(systems) if systems else self.default_system
            carrier = 0 if self.system_place is SystemPlace.FIRST else len(turns) - 1
        before = "" if opening is None or self.system is None else self.system.around(opening)
        parts = [self.bos, before if carrier is None else ""]
        for index, (turn, content) in enumerate(turns):
            prefix = before if before and index == carrier and turn is self.user else turn.prefix
            parts.append(prefix + content + turn.suffix)
        if add_generation_prompt:
            parts.append(self.generation)
        return "".join(parts)

    def _content(self, message: Message) -> str:
        return message["content"].strip() if message["role"] in self.trims else message["content"]

    def _turn(self, role: str, number: int) -> Turn:
        if role == "user":
            return self.user
        if role == "assistant":
            return self.assistant
        if role == "system":
            if self.system is None:
                raise ChatFormatError(f"message {number}: the {self.name} format takes no system message")
            return self.system
        raise ChatFormatError(f"message {number}: the {self.name} format has no role {role!r}")


@dataclass(frozen=True)
class OwnTemplate:
    """A chat template that turns cannot describe: whoever prompts the model has to run it.

    Attributes:
        why: what turns have no words for.
        stops: texts that end an answer.
        takes_system: whether a conversation can have a system message.
    """

    why: str
    stops: tuple[str, ...]
    takes_system: bool

    @property
    def name(self) -> str:
        """What stands for the name of a format."""
        return "jinja"


def read_format(values: Mapping[str, Any]) -> ChatFormat | OwnTemplate:
    """The value whose fields came as JSON: ``asdict`` the other way round."""
    lists = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
    if "why" in values:
        return OwnTemplate(**{**values, **lists})
    turns = {key: values[key] and Turn(**values[key]) for key in ("system", "user", "assistant")}
    unlike = tuple(Shape(shape) for shape in values["unlike"])
    place = SystemPlace(values["system_place"])
    return ChatFormat(**{**values, **lists, **turns, "unlike": unlike, "system_place": place})
