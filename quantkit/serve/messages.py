"""The conversation in a request."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator

from quantkit.serve.errors import RequestError
from quantkit.serve.template_request import ToolCall

# Role -> the fields that its messages may have besides role and content.
_FIELDS = {"assistant": ("reasoning_content", "tool_calls"), "tool": ("tool_call_id", "name")}


class _Text(BaseModel):
    type: Literal["text"]
    text: str


def _parts(content: Any) -> Any:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


class Message(BaseModel):
    """A turn. Other fields are accepted only if they are empty, because no template would see them."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[list[_Text], BeforeValidator(_parts, json_schema_input_type=str | list[_Text] | None)]
    reasoning_content: str = ""
    tool_calls: list[ToolCall] = []
    tool_call_id: str = ""
    name: str = ""

    @model_validator(mode="before")
    @classmethod
    def _without_empty_fields(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        if value.get("content") is None and value.get("role") == "assistant":
            value = {**value, "content": ""}  # as OpenAI's clients send answers without text
        return {name: said for name, said in value.items() if said or name in ("role", "content")}

    @property
    def text(self) -> str:
        # As llama.cpp's server joins them.
        return "\n".join(part.text for part in self.content)


def conversation(
    messages: Sequence[Message], system: str | None, note: Callable[[str], None]
) -> tuple[Mapping[str, Any], ...]:
    """The messages as templates read them.

    Args:
        messages: those of the request.
        system: the system prompt if they have none.
        note: receives the name of each field that is ignored.

    Raises:
        RequestError: a message has a field that its role does not have.
    """
    turns = [_turn(number, message, note) for number, message in enumerate(messages)]
    if all(turn["role"] != "system" for turn in turns):
        return ({"role": "system", "content": system}, *turns) if system else tuple(turns)
    return tuple(turn for turn in turns if turn["content"] or turn["role"] != "system")


def _turn(number: int, message: Message, note: Callable[[str], None]) -> dict[str, Any]:
    """A message as templates read it, without the fields that its role does not have."""
    turn: dict[str, Any] = {"role": _role(message), "content": message.text}
    allowed = _FIELDS.get(message.role, ())
    for name in ("reasoning_content", "tool_calls", "tool_call_id", "name"):
        if not (value := getattr(message, name)):
            continue
        if name == "name" and name not in allowed:
            note("messages.name")  # programs of several agents send it
            continue
        if name not in allowed:
            raise RequestError(f"messages[{number}].{name} is not supported", param=f"messages.{number}.{name}")
        turn[name] = [call.model_dump() for call in value] if name == "tool_calls" else value
    return turn


def _role(message: Message) -> str:
    return "system" if message.role == "developer" else message.role
