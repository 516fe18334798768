"""What every request for an answer may say, of a conversation or of a text: the fields, and what they mean.

Where a request leaves a field out, or sets it to null, the package's value applies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field

from quantkit.errors import QuantkitError
from quantkit.run.held_answer import Held
from quantkit.run.options import MOST_SEED, Sampling, SamplingOptions
from quantkit.run.settings import Settings
from quantkit.serve.adapters import MOST, Adapters, LoraScale
from quantkit.serve.errors import RequestError
from quantkit.serve.schema_grammar import JSON_OBJECT, schema_grammar

UNSUPPORTED: Mapping[str, tuple[object, ...]] = {
    "best_of": (1,),
    "ignore_eos": (False,),
    "min_tokens": (0,),
    "mirostat_mode": (0,),
    "response_prefix": ("",),
}
"""Parameter -> the values with which it has no effect."""

IGNORED = frozenset(
    {
        "logit_bias_type",  # tokens have ids here
        "metadata",
        "mirostat_eta",  # of mirostat_mode
        "mirostat_tau",
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

MOST_ANSWERS = 64
"""Answers to one request."""

MOST_BIASES = 1024


class StreamOptions(BaseModel):
    """How a stream ends."""

    model_config = ConfigDict(strict=True)

    include_usage: bool = Field(False, description="End the stream with the token counts.")


class _Named(BaseModel):
    name: str = ""
    schema_: dict[str, Any] | bool = Field(True, alias="schema")


class ResponseFormat(BaseModel):
    """OpenAI's, and llama.cpp's own with the schema beside the type."""

    model_config = ConfigDict(strict=True, extra="forbid")

    type: Literal["text", "json_object", "json_schema"]
    json_schema: _Named | None = None
    schema_: dict[str, Any] | bool | None = Field(None, alias="schema")


_Bias = Annotated[float, Field(ge=-100, le=100)]
_TokenId = Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]


class SamplingFields(BaseModel):
    """What every API for answers has by the same names; other parameters stay in ``model_extra``."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False, strict=True)

    model: Any = Field(None, description="The name of an adapter takes that one alone; others have no effect.")
    lora: list[LoraScale] | None = Field(None, max_length=MOST, description="Adapters of this request, and no others.")
    stream: bool | None = Field(None, description="Send the answer piece by piece, as server-sent events.")
    stop: str | list[str] | None = Field(None, description=f"Texts that end the answer, at most {MOST_STOPS}.")
    seed: int | None = Field(None, description=f"From 0 to {MOST_SEED}; -1 for a random one.")
    temperature: float | None = Field(None, ge=0)
    top_k: int | None = Field(None, ge=0)
    top_p: float | None = Field(None, ge=0, le=1)
    min_p: float | None = Field(None, ge=0, le=1)
    typical_p: float | None = Field(None, ge=0, le=1)
    repeat_penalty: float | None = Field(None, gt=0)
    repeat_last_n: int | None = Field(None, ge=-1)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[_TokenId, _Bias] | None = Field(
        None, max_length=MOST_BIASES, description="Token id -> what is added to its logit, before anything else."
    )
    cache_prompt: bool | None = Field(None, description="False evaluates the whole prompt anew.")


class AnswerFields(SamplingFields):
    """The parameters of a chat and of a continuation."""

    stream_options: StreamOptions | None = None
    n: int | None = Field(None, ge=1, le=MOST_ANSWERS, description="Answers to make; each has the next seed.")
    max_tokens: int | None = Field(None, description="The longest answer in tokens; -1 for no limit but the context.")
    response_format: ResponseFormat | None = None
    json_schema: dict[str, Any] | bool | None = Field(None, description="llama.cpp's name for a schema alone.")
    grammar: str | None = Field(None, description="A grammar in llama.cpp's GBNF that the answer is held to.")


def refuse_unsupported(
    extra: Mapping[str, Any],
    note: Callable[[str], None],
    *,
    unsupported: Mapping[str, tuple[object, ...]],
    ignored: frozenset[str],
) -> None:
    """Refuse what would change the answer.

    Args:
        extra: the parameters that a request has beside those that are read.
        note: receives the name of each one that is unknown.
        unsupported: see :data:`UNSUPPORTED`.
        ignored: see :data:`IGNORED`.

    Raises:
        RequestError: one of them asks for something unsupported.
    """
    for name, value in extra.items():
        if name in unsupported:
            if value is not None and value not in unsupported[name]:
                raise RequestError(f"{name} is not supported by this server", param=name)
        elif name not in ignored:
            note(name)


def sampling(asked: SamplingFields, default: SamplingOptions) -> SamplingOptions:
    """How tokens are sampled.

    Raises:
        RequestError: a value is out of range.
    """
    names = SamplingOptions.__annotations__
    given = {name: value for name in names if (value := getattr(asked, name)) is not None}
    if given.get("seed") == -1:  # llama.cpp's value for a random seed
        given["seed"] = None
    options = cast(SamplingOptions, {**default, **given})
    try:
        Sampling(**options)
    except QuantkitError as error:
        raise RequestError(str(error), param=str(error).split()[0]) from None
    return options


def limit(value: int | None, default: int | None, name: str = "max_tokens", *, least: int = 1) -> int | None:
    """The longest answer, None for no limit.

    Raises:
        RequestError: it is negative, or 0.
    """
    if value is None:
        return default
    if value == -1:  # llama.cpp's value for no limit
        return None
    if value < least:
        raise RequestError(f"{name} must be at least {least} (or -1 for no limit), not {value}", param=name)
    return value


def stops(stop: str | list[str] | None) -> list[str]:
    """The stop sequences.

    Raises:
        RequestError: there are too many.
    """
    found = [stop] if isinstance(stop, str) else stop or []
    if len(found) > MOST_STOPS:
        raise RequestError(f"stop has {len(found)} strings; at most {MOST_STOPS} are supported", param="stop")
    return found


def bias(asked: Mapping[str, float] | None, n_vocab: int) -> dict[int, float]:
    """``logit_bias`` by token.

    Raises:
        RequestError: the model has no such token.
    """
    found = {int(token): value for token, value in (asked or {}).items() if value}
    if unknown := next((token for token in found if token >= n_vocab), None):
        raise RequestError(f"logit_bias has token {unknown}; they go from 0 to {n_vocab - 1}", param="logit_bias")
    return found


def with_adapters(asked: SamplingFields, settings: Settings, adapters: Adapters | None) -> tuple[Settings, str]:
    """:meth:`Adapters.chosen` of a request.

    Raises:
        RequestError: there is no such adapter.
    """
    if adapters is not None:
        return adapters.chosen(settings, asked.lora, asked.model)
    if asked.lora:
        raise RequestError("lora is not supported: no adapter was loaded", param="lora")
    return settings, ""


def held(asked: AnswerFields, *, thinks: bool = False) -> tuple[Held | None, str]:
    """The grammar of the answer, and the parameter that it comes from; the client's own grammar is not checked here.

    Args:
        asked: the request.
        thinks: whether the model may think before.

    Raises:
        RequestError: there are two grammars, or the schema cannot be held.
    """
    form, schema = asked.response_format, asked.json_schema
    shaped = form is not None and form.type != "text"
    given = {
        "grammar": bool(asked.grammar),
        "response_format": shaped,
        "json_schema": schema is not None and not shaped,  # llama.cpp lets the format decide
    }
    names = [name for name, is_given in given.items() if is_given]
    if len(names) > 1:
        raise RequestError(f"{names[0]} is not supported together with {names[1]}", param=names[0])
    if asked.grammar:
        return Held(asked.grammar, thinks=thinks, is_whole=True), "grammar"
    if form is not None and form.type == "json_schema":
        if form.json_schema is None and form.schema_ is None:
            raise RequestError("response_format.json_schema is missing", param="response_format.json_schema")
        schema = form.schema_ if form.json_schema is None else form.json_schema.schema_
    elif form is not None and form.type == "json_object":
        schema = form.schema_
    if not names:
        return None, ""
    return Held(JSON_OBJECT if schema is None else schema_grammar(schema), thinks=thinks), names[0]
