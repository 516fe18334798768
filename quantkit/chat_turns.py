"""The values that describe how a model wants to be prompted.

:class:`ChatFormat` has the text around each turn, and what ends one. :class:`OwnTemplate` is what remains where turns
cannot say it: what ends an answer, and why only the model's own template can write the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from quantkit.chat_template import Message
from quantkit.errors import ChatFormatError


class SystemPlace(StrEnum):
    """Where a system message is written.

    In a question, the prefix of the system turn begins with that of the question, which is not written again.
    """

    TURN = "a turn of its own"
    FIRST = "in the first question"
    LAST = "in the last question"


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
        uneven: whether white space around contents has further rules, for which turns have no words.
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
    uneven: bool = False
    mentions_tools: bool = False
    dated: bool = False

    @property
    def takes_system(self) -> bool:
        """Whether a conversation can have a system message."""
        return self.system is not None

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> str:
        """Render a conversation of user and assistant messages, optionally opened by one system message.

        Raises:
            ChatFormatError: an unknown role, a system message elsewhere than first, or one that the format does not
            take.
        """
        opened = bool(messages) and messages[0]["role"] == "system"
        if opened and self.system is None:
            raise ChatFormatError(f"message 1: the {self.name} format takes no system message")
        talk = messages[1:] if opened else messages
        opening = ""
        if self.system is not None and (opened or self.default_system is not None):
            opening = self.system.around(self._content(messages[0]) if opened else self.default_system or "")
        carrier = {SystemPlace.TURN: None, SystemPlace.FIRST: 0, SystemPlace.LAST: len(talk) - 1}[self.system_place]
        parts = [self.bos, opening if carrier is None else ""]
        for index, message in enumerate(talk):
            turn = self._turn(message["role"], index + 1 + opened)
            prefix = opening if opening and index == carrier and turn is self.user else turn.prefix
            parts.append(prefix + self._content(message) + turn.suffix)
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
            raise ChatFormatError(f"message {number}: a system message must be the first one")
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
