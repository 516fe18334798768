"""Reads a chat request and fills in the package's settings.

The parameters are those of OpenAI and of llama-cpp-python's server. Where a request leaves one out, or sets it to null,
the package's applies. Unsupported parameters that would change the answer are refused by name; those without an effect
are ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from quantkit.chat_template.answer_format import AnswerFormat
from quantkit.errors import QuantkitError
from quantkit.run.held_answer import Held
from quantkit.run.options import Sampling, SamplingOptions
from quantkit.run.settings import Settings
from quantkit.serve.errors import RequestError
from quantkit.serve.messages import Message, conversation
from quantkit.serve.refusals import problem
from quantkit.serve.schema_grammar import JSON_OBJECT, schema_grammar
from quantkit.serve.template_request import Tool, effort, offered_tools, template_variables

# Parameter -> the values with which it has no effect.
UNSUPPORTED: Mapping[str, tuple[object, ...]] = {
    "audio": (),
    "best_of": (1,),
    "continue_final_message": (False,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "grammar": ("",),
    "ignore_eos": (False,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "min_tokens": (0,),
    "mirostat_mode": (0,),
    "modalities": (["text"],),
    "n": (1,),
    "prediction": (),
    "response_prefix": ("",),
    "top_logprobs": (0,),
    "verbosity": ("medium",),
    "web_search_options": (),
}
IGNORED = frozenset(
    {
        "logit_bias_type",  # of logit_bias
        "metadata",
        "mirostat_eta",  # of mirostat_mode
        "mirostat_tau",
        "model",  # there is one
        "moderation",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    }
)
"""Parameters that do not change an answer."""


MOST_STOPS = 64
"""Each is looked for at every token."""


class _StreamOptions(BaseModel):
    model_config = ConfigDict(strict=True)

    include_usage: bool = False


class _Named(BaseModel):
    name: str = ""
    schema_: dict[str, Any] | bool = Field(True, alias="schema")


class _ResponseFormat(BaseModel):
    """OpenAI's, and llama.cpp's own with the schema beside the type."""

    model_config = ConfigDict(strict=True, extra="forbid")

    type: Literal["text", "json_object", "json_schema"]
    json_schema: _Named | None = None
    schema_: dict[str, Any] | bool | None = Field(None, alias="schema")


class _Body(BaseModel):
    """The supported parameters; the others stay in ``model_extra``."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False, strict=True)

    messages: list[Message] = Field(min_length=1)
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    temperature: float | None = Field(None, ge=0)
    top_k: int | None = Field(None, ge=0)
    top_p: float | None = Field(None, ge=0, le=1)
    min_p: float | None = Field(None, ge=0, le=1)
    typical_p: float | None = Field(None, ge=0, le=1)
    repeat_penalty: float | None = Field(None, gt=0)
    repeat_last_n: int | None = Field(None, ge=-1)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    tools: list[Tool] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    cache_prompt: bool | None = None
    response_format: _ResponseFormat | None = None
    json_schema: dict[str, Any] | bool | None = None
    truncation: Literal["auto", "disabled"] | None = None


@dataclass(frozen=True)
class ChatRequest:
    """One request for an answer.

    Attributes:
        messages: the conversation, with the system prompt first if there is one.
        settings: how to answer.
        stream: whether the answer is sent piece by piece.
        include_usage: whether a stream ends with the token counts.
        tools: the tools that the model may call.
        reuse: False evaluates the whole prompt.
        truncates: whether the oldest messages are dropped if the conversation does not fit.
    """

    messages: tuple[Mapping[str, Any], ...]
    settings: Settings
    stream: bool
    include_usage: bool
    tools: tuple[Mapping[str, Any], ...] = ()
    reuse: bool = True
    truncates: bool = False


def read_request(
    body: bytes,
    *,
    system: str | None,
    settings: Settings,
    note: Callable[[str], None],
    form: AnswerFormat | None = None,
) -> ChatRequest:
    """Read a request.

    Args:
        body: JSON.
        system: the system prompt for requests without one; an empty one in the request means no system prompt.
        settings: the settings for what the request leaves out. The request's stop sequences are added to the
            package's, which belong to the chat format.
        note: receives the name of each parameter that is ignored.
        form: how the model's chat template lets it answer; None for text alone.

    Raises:
        RequestError: it is not JSON, a value is wrong, or it asks for something unsupported.
    """
    try:
        asked = _Body.model_validate_json(body)
    except ValidationError as error:
        raise problem(error) from None
    _refuse_unsupported(asked.model_extra or {}, note)
    form = form or AnswerFormat(no_calls="it has no tools")
    told = template_variables(asked.chat_template_kwargs or {}, form) | effort(asked.reasoning_effort, form)
    told = {**settings.told, **told}
    tools, calls = offered_tools(asked.tools or [], asked.tool_choice, parallel=asked.parallel_tool_calls, form=form)
    return ChatRequest(
        messages=conversation(asked.messages, system, note),
        settings=Settings(
            sampling=_sampling(asked, settings.sampling),
            max_tokens=_limit(asked, settings.max_tokens),
            stops=(*settings.stops, *_stops(asked.stop)),
            told=told,
            held=_held(asked, told, form, tools=bool(tools), calls=calls),
        ),
        stream=bool(asked.stream),
        include_usage=asked.stream_options is not None and asked.stream_options.include_usage,
        tools=tools,
        reuse=asked.cache_prompt is not False,
        truncates=asked.truncation == "auto",
    )


def _refuse_unsupported(extra: Mapping[str, Any], note: Callable[[str], None]) -> None:
    for name, value in extra.items():
        if name in UNSUPPORTED:
            if value is not None and value not in UNSUPPORTED[name]:
                raise RequestError(f"{name} is not supported by this server", param=name)
        elif name not in IGNORED:
            note(name)


def _sampling(asked: _Body, default: SamplingOptions) -> SamplingOptions:
    names = SamplingOptions.__annotations__
    given = {name: value for name in names if (value := getattr(asked, name)) is not None}
    if given.get("seed") == -1:  # llama.cpp's value for a random seed
        given["seed"] = None
    sampling = cast(SamplingOptions, {**default, **given})
    try:
        Sampling(**sampling)
    except QuantkitError as error:
        raise RequestError(str(error), param=str(error).split()[0]) from None
    return sampling


def _held(asked: _Body, told: Mapping[str, Any], form: AnswerFormat, *, tools: bool, calls: str) -> Held | None:
    """What the answer is held to."""
    thinks = form.thoughts is not None and not (
        form.switches and all(told.get(name) is False for name in form.switches)
    )
    if (grammar := _schema(asked)) and tools:
        raise RequestError("response_format is not supported together with tools", param="response_format")
    if grammar or calls:
        return Held(grammar or calls, is_text=bool(grammar), thinks=thinks)
    return None


def _schema(asked: _Body) -> str:
    """The grammar of the answer's text; "" for none."""
    found, schema = asked.response_format, asked.json_schema
    if found is not None and found.type == "json_schema":
        if found.json_schema is None and found.schema_ is None:
            raise RequestError("response_format.json_schema is missing", param="response_format.json_schema")
        schema = found.schema_ if found.json_schema is None else found.json_schema.schema_
    elif found is not None and found.type == "json_object":
        schema = found.schema_
    elif schema is None:
        return ""
    return JSON_OBJECT if schema is None else schema_grammar(schema)


def _limit(asked: _Body, default: int | None) -> int | None:
    name = "max_tokens" if asked.max_completion_tokens is None else "max_completion_tokens"
    limit = getattr(asked, name)
    if limit is None:
        return default
    if limit == -1:  # llama.cpp's value for no limit
        return None
    if limit < 1:
        raise RequestError(f"{name} must be at least 1 (or -1 for no limit), not {limit}", param=name)
    return int(limit)


def _stops(stop: str | list[str] | None) -> list[str]:
    stops = [stop] if isinstance(stop, str) else stop or []
    if len(stops) > MOST_STOPS:
        raise RequestError(f"stop has {len(stops)} strings; at most {MOST_STOPS} are supported", param="stop")
    return stops
