"""The input of ``POST /v1/responses``: items, and the messages that they stand for.

An answer of this API is several items (a thought, a text, each call); in a conversation they are one message again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator


class _Item(BaseModel):
    """Other fields are accepted only if they are empty, because no template would see them."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _without_empty_fields(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {name: said for name, said in value.items() if said or name in cls.model_fields}


class _Text(_Item):
    type: Literal["input_text", "output_text", "reasoning_text"]
    text: str
    logprobs: Any = None


def _parts(content: Any) -> Any:
    return [{"type": "input_text", "text": content}] if isinstance(content, str) else content


_Content = Annotated[list[_Text], BeforeValidator(_parts, json_schema_input_type=str | list[_Text])]


class _Listed(_Item):
    """An item of the list. Those of an answer have an id and a status, which say nothing to a template."""

    id: str | None = None
    status: str | None = None


class MessageItem(_Listed):
    """A message."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: _Content
    phase: str | None = None


class CallItem(_Listed):
    """A call of a tool in a past answer."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str


class ResultItem(_Listed):
    """What the tool returned."""

    type: Literal["function_call_output"]
    call_id: str
    output: _Content
    name: str | None = None


class ThoughtItem(_Listed):
    """A past thought. Summaries and encrypted ones are those of other servers, which no template reads."""

    type: Literal["reasoning"]
    content: list[_Text] | None = None
    summary: list[Any] = []
    encrypted_content: str | None = None


def _with_type(item: Any) -> Any:
    return {"type": "message", **item} if isinstance(item, dict) and "role" in item else item


Item = Annotated[
    Annotated[MessageItem | CallItem | ResultItem | ThoughtItem, Field(discriminator="type")],
    BeforeValidator(_with_type, json_schema_input_type=MessageItem | CallItem | ResultItem | ThoughtItem),
]


def as_messages(items: Sequence[Item]) -> list[dict[str, Any]]:
    """The messages of a chat, as ``/v1/chat/completions`` has them."""
    messages: list[dict[str, Any]] = []
    for item in items:
        if isinstance(item, MessageItem) and item.role != "assistant":
            messages.append({"role": item.role, "content": _text(item.content)})
        elif isinstance(item, ResultItem):
            name = {"name": item.name} if item.name else {}
            said = {"role": "tool", "tool_call_id": item.call_id, "content": _text(item.output), **name}
            messages.append(said)
        else:
            _answer(messages, item)
    return messages


def _answer(messages: list[dict[str, Any]], item: MessageItem | CallItem | ThoughtItem) -> None:
    """Add an item of an answer: to the one before it, as long as it comes in the order in which answers have them."""
    empty = {"role": "assistant", "content": ""}
    open_ = messages[-1] if messages and messages[-1]["role"] == "assistant" else None
    match item:
        case CallItem():
            if open_ is None:
                messages.append(open_ := dict(empty))
            function = {"name": item.name, "arguments": item.arguments}
            open_.setdefault("tool_calls", []).append({"id": item.call_id, "type": "function", "function": function})
        case ThoughtItem():
            if thought := _text(item.content or []):
                messages.append({**empty, "reasoning_content": thought})
        case _:
            if open_ is None or open_["content"] or "tool_calls" in open_:
                messages.append(open_ := dict(empty))
            open_["content"] = _text(item.content)


def _text(parts: Sequence[_Text]) -> str:
    return "\n".join(part.text for part in parts)
