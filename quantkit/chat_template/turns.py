"""The values that describe a model's chat format.

:class:`ChatFormat` has the text around each turn, and the texts that end one. :class:`OwnTemplate` is used if turns
cannot describe the format: it has the texts that end an answer, and the reason why only the model's own template can
write the prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from quantkit.chat_template.render import Message
from quantkit.errors import ChatFormatError


class SystemPlace(StrEnum):
    """The position of a system message.

    Inside a question, the prefix of the system turn begins with that of the question, which is not repeated.
    """

    TURN = "a turn of its own"
    FIRST = "in the first question"
    LAST = "in the last question"


class Shape(StrEnum):
    """Kinds of conversations that turns and a chat template may write differently."""

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
        name: name of the named format with these turns, else "generic".
        bos: literal beginning-of-sequence text of a rendered prompt; "" if there is none.
        system: the system turn; None if the template does not support system messages.
        user: the user turn.
        assistant: the turn of an earlier answer.
        generation: the text that asks for an answer; often the prefix of an answer.
        stops: texts that end an assistant turn.
        trims: roles for which white space around the content is removed.
        default_system: the system text that the template inserts when there is none ("" is an empty system turn).
        system_place: position of the system turn.
        uneven: roles with other rules for white space around contents, which turns cannot express.
        unlike: kinds of conversations that the template writes differently from :meth:`render`.
        mentions_tools: whether the template's source mentions tools or thinking, which turns cannot express.
        dated: whether the template writes today's date; the turns then contain its fixed fallback date.
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

        System messages inside a question are joined with a blank line; otherwise each is a separate turn.

        Raises:
            ChatFormatError: a role is unknown, or the format does not support system messages.
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
        content = str(message["content"])
        return content.strip() if message["role"] in self.trims else content

    def _turn(self, role: str, number: int) -> Turn:
        if role == "user":
            return self.user
        if role == "assistant":
            return self.assistant
        if role == "system":
            if self.system is None:
                raise ChatFormatError(f"message {number}: the {self.name} format does not support system messages")
            return self.system
        raise ChatFormatError(f"message {number}: the {self.name} format has no role {role!r}")


@dataclass(frozen=True)
class OwnTemplate:
    """A chat template that turns cannot describe: prompting the model requires running it.

    Attributes:
        why: what turns cannot express.
        stops: texts that end an answer.
        takes_system: whether a conversation can have a system message.
    """

    why: str
    stops: tuple[str, ...]
    takes_system: bool

    @property
    def name(self) -> str:
        """A placeholder for the name of a format."""
        return "jinja"


def read_format(values: Mapping[str, Any]) -> ChatFormat | OwnTemplate:
    """The value with these fields from JSON: the inverse of ``asdict``."""
    lists = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
    if "why" in values:
        return OwnTemplate(**{**values, **lists})
    turns = {key: values[key] and Turn(**values[key]) for key in ("system", "user", "assistant")}
    unlike = tuple(Shape(shape) for shape in values["unlike"])
    place = SystemPlace(values["system_place"])
    return ChatFormat(**{**values, **lists, **turns, "unlike": unlike, "system_place": place})
