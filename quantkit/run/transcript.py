"""The conversation, and the file it is saved in.

The file has the messages in the usual chat format, so other programs can read it, and files that they write can be
loaded. Every loaded message is checked: chat templates take anything, and a wrong message would silently give a wrong
prompt.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quantkit.chat_template.answers import THOUGHT
from quantkit.chat_template.call_reader import Call
from quantkit.errors import OutputError, QuantkitError
from quantkit.files.json_file import SCHEMA, json_bytes, read_given_json
from quantkit.files.private_file import write_text
from quantkit.system.unicode_text import check_text

STEPS = "steps"
"""The key of an answer's calls of tools and their results; it is in no file."""

_LARGEST = 64 * 2**20  # bytes; more than any context holds


@dataclass
class Conversation:
    """The messages so far. The system prompt is separate, because it can outlive the rest.

    Attributes:
        system: the system prompt, None or "" for none.
        turns: alternating questions and answers, from a question to an answer. An answer after calls of tools has these
            and their results as :data:`STEPS`.
        pending: a question, the calls of tools that the model made for it, and their results so far; empty where no
            call waits.
        forgotten: how many of the first turns the model no longer sees.
    """

    system: str | None = None
    turns: list[dict[str, Any]] = field(default_factory=list)
    pending: list[dict[str, Any]] = field(default_factory=list)
    forgotten: int = 0

    @property
    def messages(self) -> list[dict[str, Any]]:
        """All messages, in the form that chat templates take."""
        return [*self._opening(), *_written(self.turns)]

    @property
    def seen(self) -> list[dict[str, Any]]:
        """The messages that the model sees, up to the last answer."""
        return [*self._opening(), *_written(self.turns[self.forgotten :])]

    def asking(self, question: str, *, forgotten: int | None = None) -> list[dict[str, Any]]:
        """Return the messages the model sees: the system prompt, the turns not forgotten, and the question.

        Where calls of tools are pending, these and their results are in the place of the question.
        """
        start = self.forgotten if forgotten is None else forgotten
        asked = self.pending or [{"role": "user", "content": question}]
        return [*self._opening(), *_written(self.turns[start:]), *asked]

    def add(self, question: str, answer: str, thought: str = "") -> None:
        """Add one exchange. The chat template decides what stays of the thought."""
        first, *steps = self.pending or [{"role": "user", "content": question}]
        self.turns += [first, {**_said(answer, thought), **({STEPS: steps} if steps else {})}]
        self.pending = []

    def reopen(self) -> tuple[str, str, str]:
        """Take the last answer back, which can be added again with more; returns its question, text and thought."""
        question, answer = self.turns[-2:]
        self.pending = [question, *answer.get(STEPS, ())]
        del self.turns[-2:]
        return question["content"], answer["content"], answer.get(THOUGHT, "")

    def add_calls(self, question: str, answer: str, thought: str, calls: Sequence[Call]) -> None:
        """Add an answer that calls tools, whose results have to follow."""
        if not self.pending:
            self.pending = [{"role": "user", "content": question}]
        before = sum(len(message.get("tool_calls", ())) for message in self.pending)
        made = [
            {
                "id": call.id or f"callnum{number % 100:02}",  # of nine letters and digits, as some templates require
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for number, call in enumerate(calls, before + 1)
        ]
        self.pending.append({**_said(answer, thought), "tool_calls": made})

    @property
    def waiting_call(self) -> dict[str, Any] | None:
        """The first call whose result is lacking."""
        at = max((i for i, message in enumerate(self.pending) if "tool_calls" in message), default=None)
        if at is None:
            return None
        calls, given = self.pending[at]["tool_calls"], len(self.pending) - at - 1
        return calls[given] if given < len(calls) else None

    def add_result(self, text: str) -> None:
        """Add the result of the call that waits."""
        call = self.waiting_call
        assert call is not None
        name = call["function"]["name"]
        self.pending.append({"role": "tool", "tool_call_id": call["id"], "name": name, "content": text})

    @property
    def last_question(self) -> str | None:
        """The last question that was answered, or whose calls wait."""
        turns = self.pending or self.turns[-2:]
        return turns[0]["content"] if turns else None

    def drop_last(self) -> None:
        """Remove the last exchange; if calls wait, theirs."""
        if self.pending:
            self.pending = []
            return
        del self.turns[-2:]
        self.forgotten = min(self.forgotten, len(self.turns))

    def _opening(self) -> list[dict[str, str]]:
        return [{"role": "system", "content": self.system}] if self.system else []


def _said(answer: str, thought: str) -> dict[str, Any]:
    return {"role": "assistant", "content": answer, **({THOUGHT: thought} if thought else {})}


def _written(turns: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Turns with the calls and results before an answer as messages of their own."""
    for turn in turns:
        yield from turn.get(STEPS, ())
        yield {key: value for key, value in turn.items() if key != STEPS}


def check_messages(value: object, *, where: str, last: str) -> list[dict[str, str]]:
    """Check and return the messages of a conversation: an optional system message, then user and assistant in turn.

    Args:
        value: the value from the JSON.
        where: its place, for errors.
        last: the role that the last message must have.

    Raises:
        QuantkitError: it is not such a list.
    """
    hint = 'write it as [{"role": "user", "content": "..."}, ...], with user and assistant in turn'
    if not isinstance(value, list):
        raise QuantkitError(f'{where}: "messages" must be a list', hint=hint)
    messages: list[dict[str, str]] = []
    for number, message in enumerate(value, 1):
        if not isinstance(message, dict) or set(message) - {THOUGHT} != {"role", "content"}:
            raise QuantkitError(f'{where}: message {number} must have "role" and "content" and nothing else', hint=hint)
        role, content, thought = message["role"], message["content"], message.get(THOUGHT, "")
        opened = bool(messages) and messages[0]["role"] == "system"
        wanted = ("user", "assistant")[(number - 1 - opened) % 2]
        if role != wanted and not (role == "system" and number == 1):
            raise QuantkitError(f"{where}: message {number} must have the role {wanted!r}, not {role!r}", hint=hint)
        if not isinstance(content, str):
            raise QuantkitError(f"{where}: the content of message {number} must be a string", hint=hint)
        if not isinstance(thought, str) or (thought and role != "assistant"):
            raise QuantkitError(
                f'{where}: "{THOUGHT}" of message {number} is an answer\'s thought, a string', hint=hint
            )
        for text in (content, thought):
            check_text(text, f"{where}: message {number}")
        messages.append({"role": role, "content": content, **({THOUGHT: thought} if thought else {})})
    talk = [message for message in messages if message["role"] != "system"]
    if (talk or last == "user") and (not talk or talk[-1]["role"] != last):
        raise QuantkitError(f"{where}: the last message must have the role {last!r}", hint=hint)
    return messages


def save_conversation(path: Path, conversation: Conversation, model: str) -> None:
    """Write a conversation, completely or not at all; an existing file is only replaced if it is a conversation.

    Args:
        path: the file.
        conversation: the conversation.
        model: the name of the model's file, for people.

    Raises:
        OutputError: the file exists and is not a conversation, or cannot be written; or a tool was called.
    """
    if any(STEPS in turn for turn in conversation.turns):
        raise OutputError(
            f"{path}: not saved: the conversation has calls of tools, which a saved one cannot have",
            hint="copy it from the screen",
        )
    if os.path.lexists(path):
        try:
            _read(path)
        except QuantkitError:
            raise OutputError(
                f"{path}: already exists and is not a conversation", hint="choose another name, or delete it"
            ) from None
    content = {"schema": SCHEMA, "model": model, "messages": conversation.messages}
    write_text(path, json_bytes(content, indent=1).decode())


def load_conversation(path: Path) -> Conversation:
    """Read a conversation written by :func:`save_conversation`.

    Raises:
        QuantkitError: no such file, or it is not a conversation.
    """
    messages = check_messages(_read(path)["messages"], where=str(path), last="assistant")
    opened = bool(messages) and messages[0]["role"] == "system"
    return Conversation(system=messages[0]["content"] if opened else None, turns=messages[opened:])


def _read(path: Path) -> dict[str, Any]:
    hint = "give a file written by /save"
    value = read_given_json(path, "a conversation", largest=_LARGEST, hint=hint)
    if not isinstance(value, dict) or "messages" not in value:
        raise QuantkitError(f'{path}: not a conversation: it must be an object with "messages"', hint=hint)
    schema = value.get("schema")
    if schema != SCHEMA or isinstance(schema, bool):  # true is 1 to Python
        raise QuantkitError(
            f'{path}: "schema" is {schema!r:.40}; this version of quantkit reads schema {SCHEMA}', hint=hint
        )
    return value
