"""Example conversations: Ollama's MESSAGE lines, which it puts before every chat.

Questions and answers must alternate and be complete: an open question would be joined with the user's first one.
"""

from __future__ import annotations

from collections.abc import Sequence

from quantkit.errors import ChatFormatError

_ROLES = ("user", "assistant")


def check_messages(messages: Sequence[tuple[str, str]]) -> None:
    """Refuse messages that are not an example conversation.

    Args:
        messages: pairs of role and text.

    Raises:
        ChatFormatError: another role, roles that do not alternate, no text, or a question without an answer.
    """
    for index, (role, text) in enumerate(messages):
        if role == "system":
            raise ChatFormatError(
                f"message {index + 1} is a system message", hint="make it the system prompt: --system TEXT"
            )
        if role != _ROLES[index % 2]:
            raise ChatFormatError(
                f"message {index + 1} has the role {role!r}, and must have {_ROLES[index % 2]!r}",
                hint="example messages alternate between user and assistant, beginning with user",
            )
        if not text:
            raise ChatFormatError(f"message {index + 1} is empty", hint="add a text, or leave the message out")
    if len(messages) % 2:
        raise ChatFormatError(f"message {len(messages)} has no answer", hint="add the answer: --message assistant=TEXT")
