"""Example conversations: Ollama's MESSAGE, which it puts before every chat.

Only whole turns make sense there, questions and answers by turns: a question that is left open would be joined with
the user's first one.
"""

from __future__ import annotations

from collections.abc import Sequence

from quantkit.errors import ChatFormatError

_ROLES = ("user", "assistant")


def check_messages(messages: Sequence[tuple[str, str]]) -> None:
    """Refuse what is no example conversation.

    Args:
        messages: pairs of role and text.

    Raises:
        ChatFormatError: another role, roles that do not take turns, no text, or a question without an answer.
    """
    for index, (role, text) in enumerate(messages):
        if role == "system":
            raise ChatFormatError(f"message {index + 1} is a system message", hint="give it as the system prompt")
        if role != _ROLES[index % 2]:
            raise ChatFormatError(
                f"message {index + 1} is of {role!r}, where one of {_ROLES[index % 2]!r} belongs",
                hint="example messages are of user and assistant by turns, user first",
            )
        if not text:
            raise ChatFormatError(f"message {index + 1} is empty", hint="give it a text, or leave it out")
    if len(messages) % 2:
        raise ChatFormatError(
            f"message {len(messages)} has no answer", hint="give the answer too: --message assistant=TEXT"
        )
