"""What was said: the conversation, and the file it is kept in.

The file has the messages as every chat interface writes them, so other programs can read it, and what they write can
be loaded. What is loaded is checked message by message: chat templates take anything, and a prompt made of a wrong one
would be wrong without a word.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quantkit.errors import OutputError, QuantkitError
from quantkit.files.json_file import SCHEMA, readable_json
from quantkit.files.private_file import write_text
from quantkit.system.unicode_text import check_text

_LARGEST = 64 * 2**20  # bytes; no context holds so much


@dataclass
class Conversation:
    """What was said so far. The system prompt stands apart, so that it can outlive the rest.

    Attributes:
        system: the system prompt, None or "" for none.
        turns: question and answer in turn, beginning with a question and ending with an answer.
        forgotten: how many turns at the beginning the model is no longer given.
    """

    system: str | None = None
    turns: list[dict[str, str]] = field(default_factory=list)
    forgotten: int = 0

    @property
    def messages(self) -> list[dict[str, str]]:
        """All of it, as a chat template wants it."""
        return [*self._opening(), *self.turns]

    def asking(self, question: str, *, forgotten: int | None = None) -> list[dict[str, str]]:
        """What the model is given for a question: the system prompt, the turns not forgotten, and the question."""
        start = self.forgotten if forgotten is None else forgotten
        return [*self._opening(), *self.turns[start:], {"role": "user", "content": question}]

    def add(self, question: str, answer: str) -> None:
        """Remember one exchange."""
        self.turns += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]

    def _opening(self) -> list[dict[str, str]]:
        return [{"role": "system", "content": self.system}] if self.system else []


def check_messages(value: object, *, where: str, last: str) -> list[dict[str, str]]:
    """The messages of a conversation: a system message if any, then user and assistant in turn.

    Args:
        value: what stood in the JSON.
        where: what to call it in errors.
        last: the role that the last message must have.

    Raises:
        QuantkitError: it is something else.
    """
    hint = 'write it as [{"role": "user", "content": "..."}, ...], user and assistant in turn'
    if not isinstance(value, list):
        raise QuantkitError(f'{where}: "messages" must be a list', hint=hint)
    messages: list[dict[str, str]] = []
    for number, message in enumerate(value, 1):
        if not isinstance(message, dict) or set(message) != {"role", "content"}:
            raise QuantkitError(f'{where}: message {number} must have "role" and "content" and nothing else', hint=hint)
        role, content = message["role"], message["content"]
        opened = bool(messages) and messages[0]["role"] == "system"
        wanted = ("user", "assistant")[(number - 1 - opened) % 2]
        if role != wanted and not (role == "system" and number == 1):
            raise QuantkitError(f"{where}: message {number} must be of the {wanted}, not of {role!r}", hint=hint)
        if not isinstance(content, str):
            raise QuantkitError(f"{where}: the content of message {number} must be a text", hint=hint)
        check_text(content, f"{where}: message {number}")
        messages.append({"role": role, "content": content})
    talk = [message for message in messages if message["role"] != "system"]
    if (talk or last == "user") and (not talk or talk[-1]["role"] != last):
        raise QuantkitError(f"{where}: the last message must be of the {last}", hint=hint)
    return messages


def save_conversation(path: Path, conversation: Conversation, model: str) -> None:
    """Write a conversation, all of it or nothing; only another conversation is replaced.

    Args:
        path: the file.
        conversation: what was said.
        model: the name of the model's file, for people.

    Raises:
        OutputError: the file is something else, or cannot be written.
    """
    if os.path.lexists(path):
        try:
            _read(path)
        except QuantkitError:
            raise OutputError(
                f"{path}: exists, and is not a conversation", hint="give another name, or delete it"
            ) from None
    content = {"schema": SCHEMA, "model": model, "messages": conversation.messages}
    write_text(path, readable_json(content, indent=1))


def load_conversation(path: Path) -> Conversation:
    """Read what :func:`save_conversation` wrote.

    Raises:
        QuantkitError: no such file, or it is not a conversation.
    """
    messages = check_messages(_read(path)["messages"], where=str(path), last="assistant")
    opened = bool(messages) and messages[0]["role"] == "system"
    return Conversation(system=messages[0]["content"] if opened else None, turns=messages[opened:])


def _read(path: Path) -> dict[str, Any]:
    hint = "give a file written by /save"
    try:
        if not path.is_file():
            raise QuantkitError(f"{path}: no such file", hint=hint)
        if path.stat().st_size > _LARGEST:
            raise QuantkitError(f"{path}: too large for a conversation", hint=hint)
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise QuantkitError(f"{path}: cannot be read ({error.strerror or error})", hint=hint) from None
    except (ValueError, RecursionError) as error:
        raise QuantkitError(f"{path}: not valid JSON ({error})", hint=hint) from None
    if not isinstance(value, dict) or "messages" not in value:
        raise QuantkitError(f'{path}: not a conversation: it must be an object with "messages"', hint=hint)
    if value.get("schema") != SCHEMA:
        raise QuantkitError(
            f'{path}: "schema" is {value.get("schema")!r}, and this version reads schema {SCHEMA}', hint=hint
        )
    return value
