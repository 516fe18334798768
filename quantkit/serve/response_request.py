"""Reads a request of OpenAI's newer API, ``POST /v1/responses``: a chat in other words, of which nothing is stored."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from quantkit.chat_template.answer_format import AnswerFormat
from quantkit.run.settings import Settings
from quantkit.serve import answer_fields
from quantkit.serve.adapters import Adapters
from quantkit.serve.answer_fields import SamplingFields
from quantkit.serve.errors import RequestError
from quantkit.serve.refusals import problem
from quantkit.serve.request import ChatRequest, read_request
from quantkit.serve.response_items import Item, as_messages

UNSUPPORTED: Mapping[str, tuple[object, ...]] = {
    **answer_fields.UNSUPPORTED,
    "access_programs": ({},),
    "background": (False,),
    "background_options": ({},),
    "context_management": ([],),
    "conversation": (),
    "image": ({},),
    "max_tool_calls": (),
    "moderation": (),
    "previous_response_id": ("",),
    "prompt": (),
    "store": (False,),
    "top_logprobs": (0,),
    # What a chat has, by its names there.
    "chat_template_kwargs": ({},),
    "grammar": ("",),
    "json_schema": (),
    "logprobs": (False,),
    "max_completion_tokens": (),
    "max_tokens": (),
    "messages": (),
    "n": (1,),
    "reasoning_effort": (),
    "response_format": (),
}
"""See :data:`quantkit.serve.answer_fields.UNSUPPORTED`."""

IGNORED = (answer_fields.IGNORED - {"metadata", "store"}) | {"stream_options"}

_NAMES = {
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "reasoning_effort": "reasoning.effort",
    "response_format": "text.format",
    "response_format.json_schema": "text.format",
}
"""What a chat has, by other names."""


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class FunctionTool(_Strict):
    """A tool that the model may call."""

    type: Literal["function"]
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = Field(None, description="Has no effect: tool_choice forces arguments that obey them.")


class _Format(_Strict):
    type: Literal["text", "json_object", "json_schema"]
    name: str = ""
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    description: str | None = None
    strict: bool | None = None


class TextOptions(_Strict):
    """What the text is like."""

    format: _Format | None = None
    verbosity: Literal["medium"] | None = None


class ReasoningOptions(_Strict):
    """How the model thinks; a thought comes whole, without a summary."""

    effort: str | None = None
    summary: Literal["auto"] | None = None


def _items(value: Any) -> Any:
    return [{"role": "user", "content": value}] if isinstance(value, str) else value


class ResponseBody(SamplingFields):
    """The parameters of a response."""

    input: Annotated[list[Item], BeforeValidator(_items, json_schema_input_type=str | list[Item])] = Field(min_length=1)
    instructions: str | None = Field(None, description="The system prompt.")
    max_output_tokens: int | None = Field(None, description="The longest answer; -1 for no limit but the context.")
    tools: list[FunctionTool] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    truncation: Literal["auto", "disabled"] | None = None
    include: list[Literal["reasoning.encrypted_content"]] | None = Field(None, description="Nothing is encrypted.")
    metadata: dict[str, str] | None = Field(None, description="Comes back with the response.")


@dataclass(frozen=True)
class ResponseRequest(ChatRequest):
    """One request for a response.

    Attributes:
        shown: what of the request comes back with the response.
    """

    shown: Mapping[str, Any] = field(default_factory=dict)


def read_response_request(
    body: bytes,
    *,
    system: str | None,
    settings: Settings,
    note: Callable[[str], None],
    form: AnswerFormat | None = None,
    n_vocab: int = 2**31,
    adapters: Adapters | None = None,
) -> ResponseRequest:
    """Read a request; the parameters are those of :func:`quantkit.serve.request.read_request`.

    Raises:
        RequestError: it is not JSON, a value is wrong, or it asks for something unsupported.
    """
    try:
        asked = ResponseBody.model_validate_json(body)
    except ValidationError as error:
        raise problem(error, forms={}) from None
    answer_fields.refuse_unsupported(asked.model_extra or {}, note, unsupported=UNSUPPORTED, ignored=IGNORED)
    told = json.dumps(_chat(asked)).encode()
    try:
        chat = read_request(
            told, system=system, settings=settings, note=note, form=form, n_vocab=n_vocab, adapters=adapters
        )
    except RequestError as error:
        name = _NAMES.get(error.param or "", error.param)
        message = str(error).replace(error.param, name, 1) if error.param and name else str(error)
        raise RequestError(message, param=name, status=error.status) from None
    return ResponseRequest(**{one.name: getattr(chat, one.name) for one in fields(chat)}, shown=_shown(asked))


def _chat(asked: ResponseBody) -> dict[str, Any]:
    """The same as the body of a chat."""
    messages = as_messages(asked.input)
    if asked.instructions is not None:
        messages.insert(0, {"role": "system", "content": asked.instructions})
    plain = asked.model_dump(include=set(SamplingFields.model_fields), exclude_none=True, by_alias=True)
    form = asked.text.format if asked.text is not None else None
    return {
        **plain,
        "messages": messages,
        "max_tokens": asked.max_output_tokens,
        "tools": [_tool(tool) for tool in asked.tools or ()],
        "tool_choice": _choice(asked.tool_choice),
        "parallel_tool_calls": asked.parallel_tool_calls,
        "response_format": None if form is None else _format(form),
        "reasoning_effort": None if asked.reasoning is None else asked.reasoning.effort,
        "truncation": asked.truncation,
    }


def _tool(tool: FunctionTool) -> dict[str, Any]:
    function = tool.model_dump(include={"name", "description", "parameters"}, exclude_none=True)
    return {"type": "function", "function": function}


def _choice(choice: Any) -> Any:
    if isinstance(choice, dict) and choice.keys() == {"type", "name"}:
        return {"type": choice["type"], "function": {"name": choice["name"]}}
    if isinstance(choice, dict):
        message = "tool_choice must be 'auto', 'none', 'required', or {\"type\": \"function\", \"name\": NAME}"
        raise RequestError(message, param="tool_choice")
    return choice


def _format(form: _Format) -> dict[str, Any]:
    if form.type != "json_schema":
        return {"type": form.type}
    if form.schema_ is None:
        raise RequestError("text.format.schema is missing", param="text.format.schema")
    return {"type": form.type, "json_schema": {"name": form.name, "schema": form.schema_}}


def _shown(asked: ResponseBody) -> dict[str, Any]:
    """What OpenAI's response repeats of its request."""
    text = (asked.text or TextOptions()).model_dump(exclude_none=True, by_alias=True)
    return {
        "instructions": asked.instructions,
        "max_output_tokens": asked.max_output_tokens,
        "metadata": asked.metadata or {},
        "parallel_tool_calls": asked.parallel_tool_calls is not False,
        "previous_response_id": None,
        "reasoning": {"effort": None if asked.reasoning is None else asked.reasoning.effort, "summary": None},
        "store": False,
        "temperature": asked.temperature,
        "text": {"format": {"type": "text"}, **text},
        "tool_choice": asked.tool_choice or "auto",
        "tools": [tool.model_dump() for tool in asked.tools or ()],
        "top_p": asked.top_p,
        "truncation": asked.truncation or "disabled",
    }
