"""The value that describes how a model wants to be prompted: the text around each turn, and what ends one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from quantkit.chat_template import Message
from quantkit.errors import ChatFormatError


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
    """A conversation format.

    Attributes:
        name: "llama-3", "chatml", or "generic" where the turns are those of no named format.
        bos: literal beginning-of-sequence text of a rendered prompt; "" if there is none.
        system: the system turn; None where the template takes no system message.
        user: the user turn.
        assistant: the assistant turn; its prefix is also the generation prompt.
        stops: texts that end an assistant turn.
        trims: whether the template strips white space around contents.
        default_system: the system text that the template inserts when there is none ("" is an empty system turn).
        mentions_tools: whether the template's source speaks of tools or thinking, for which turns have no words.
        dated: whether the template writes today's date; the turns then hold the fixed date of its fallback.
    """

    name: str
    bos: str
    system: Turn | None
    user: Turn
    assistant: Turn
    stops: tuple[str, ...]
    trims: bool
    default_system: str | None
    mentions_tools: bool = False
    dated: bool = False

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> str:
        """Render a conversation of user and assistant messages, optionally opened by one system message.

        Raises:
            ChatFormatError: an unknown role, a system message elsewhere than first, or one that the format does not
            take.
        """
        parts = [self.bos]
        if (
            self.system is not None
            and self.default_system is not None
            and (not messages or messages[0]["role"] != "system")
        ):
            parts.append(self.system.around(self.default_system))
        for index, message in enumerate(messages):
            turn = self._turn(message["role"], index)
            content = message["content"]
            parts.append(turn.around(content.strip() if self.trims else content))
        if add_generation_prompt:
            parts.append(self.assistant.prefix)
        return "".join(parts)

    def _turn(self, role: str, index: int) -> Turn:
        if role == "user":
            return self.user
        if role == "assistant":
            return self.assistant
        if role != "system":
            raise ChatFormatError(f"message {index + 1}: the {self.name} format has no role {role!r}")
        if self.system is None:
            raise ChatFormatError(f"message {index + 1}: the {self.name} format takes no system message")
        if index:
            raise ChatFormatError(f"message {index + 1}: a system message must be the first one")
        return self.system
