"""Reads a chat request and fills in the package's settings.

The parameters are those of OpenAI and of llama-cpp-python's server. Where a request leaves one out, or sets it to null,
the package's applies. Unsupported parameters that would change the answer are refused by name; those without an effect
are ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import Field, ValidationError

from quantkit.chat_template.answer_format import AnswerFormat
from quantkit.run.held_answer import Held
from quantkit.run.logprobs import MOST_TOP
from quantkit.run.settings import Settings
from quantkit.serve import answer_fields
from quantkit.serve.adapters import Adapters
from quantkit.serve.answer_fields import AnswerFields
from quantkit.serve.errors import RequestError
from quantkit.serve.messages import Message, conversation
from quantkit.serve.refusals import problem
from quantkit.serve.template_request import Tool, effort, offered_tools, template_variables

UNSUPPORTED: Mapping[str, tuple[object, ...]] = {
    **answer_fields.UNSUPPORTED,
    "audio": (),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "modalities": (["text"],),
    "prediction": (),
    "verbosity": ("medium",),
    "web_search_options": (),
}
"""See :data:`quantkit.serve.answer_fields.UNSUPPORTED`."""

IGNORED = answer_fields.IGNORED | {"moderation"}


class ChatBody(AnswerFields):
    """The parameters of a chat."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, description="The same as max_tokens.")
    logprobs: bool | None = Field(None, description="Tell how likely each token was.")
    top_logprobs: int | None = Field(None, ge=0, le=MOST_TOP, description="So many alternatives to each token.")
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    tools: list[Tool] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    truncation: Literal["auto", "disabled"] | None = None
    continue_final_message: bool | None = Field(
        None, description="Go on with the answer that messages end with; false answers it with another one."
    )
    add_generation_prompt: bool | None = Field(None, description="False with continue_final_message only.")


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
        logprobs: how many alternatives to each token are told; None tells nothing of probabilities.
        n: how many answers are made.
        unchecked: a grammar of the client's, which may be none at all.
        model: name of the adapter that it is for; "" for the server's model.
        continues: whether the last message is an answer that goes on.
    """

    messages: tuple[Mapping[str, Any], ...]
    settings: Settings
    stream: bool
    include_usage: bool
    tools: tuple[Mapping[str, Any], ...] = ()
    reuse: bool = True
    truncates: bool = False
    logprobs: int | None = None
    n: int = 1
    unchecked: str = ""
    model: str = ""
    continues: bool = False

    def each(self) -> tuple[ChatRequest, ...]:
        """A request for each of the answers."""
        return tuple(replace(self, settings=self.settings.for_answer(index), n=1) for index in range(self.n))


def read_request(
    body: bytes,
    *,
    system: str | None,
    settings: Settings,
    note: Callable[[str], None],
    form: AnswerFormat | None = None,
    n_vocab: int = 2**31,
    adapters: Adapters | None = None,
) -> ChatRequest:
    """Read a request.

    Args:
        body: JSON.
        system: the system prompt for requests without one; an empty one in the request means no system prompt.
        settings: the settings for what the request leaves out. The request's stop sequences are added to the
            package's, which belong to the chat format.
        note: receives the name of each parameter that is ignored.
        form: how the model's chat template lets it answer; None for text alone.
        n_vocab: tokens of the model.
        adapters: LoRA files that the request can choose.

    Raises:
        RequestError: it is not JSON, a value is wrong, or it asks for something unsupported.
    """
    try:
        asked = ChatBody.model_validate_json(body)
    except ValidationError as error:
        raise problem(error) from None
    answer_fields.refuse_unsupported(asked.model_extra or {}, note, unsupported=UNSUPPORTED, ignored=IGNORED)
    form = form or AnswerFormat(no_calls="it has no tools")
    told = template_variables(asked.chat_template_kwargs or {}, form) | effort(asked.reasoning_effort, form)
    told = {**settings.told, **told}
    tools, calls = offered_tools(asked.tools or [], asked.tool_choice, parallel=asked.parallel_tool_calls, form=form)
    how, model = answer_fields.with_adapters(
        asked,
        Settings(
            sampling=answer_fields.sampling(asked, settings.sampling),
            max_tokens=_limit(asked, settings.max_tokens),
            stops=(*settings.stops, *answer_fields.stops(asked.stop)),
            told=told,
            held=_held(asked, told, form, tools=bool(tools), calls=calls),
            bias=answer_fields.bias(asked.logit_bias, n_vocab),
        ),
        adapters,
    )
    continues = _continues(asked)
    if continues and how.held is not None:
        message = "an answer that goes on cannot be held to a grammar; continue_final_message false asks for another"
        raise RequestError(message, param="continue_final_message")
    return ChatRequest(
        messages=conversation(asked.messages, system, note),
        settings=how,
        stream=bool(asked.stream),
        include_usage=asked.stream_options is not None and asked.stream_options.include_usage,
        tools=tools,
        reuse=asked.cache_prompt is not False,
        truncates=asked.truncation == "auto",
        logprobs=_logprobs(asked),
        n=asked.n or 1,
        unchecked=asked.grammar or "",
        model=model,
        continues=continues,
    )


def _continues(asked: ChatBody) -> bool:
    """Whether the answer at the end goes on: unless the request says otherwise, as in llama.cpp's server."""
    last, wanted = asked.messages[-1], asked.continue_final_message
    name = "continue_final_message"
    if wanted and asked.add_generation_prompt:
        raise RequestError(f"{name} is not supported together with add_generation_prompt", param=name)
    if wanted and last.role != "assistant":
        raise RequestError(f"{name}: the last message is no answer", param=name)
    continues = last.role == "assistant" and wanted is not False and not asked.add_generation_prompt
    if continues and last.tool_calls:
        raise RequestError(f"{name}: the last message has calls of tools, which do not go on", param=name)
    if asked.add_generation_prompt is False and not continues:
        name = "add_generation_prompt"
        raise RequestError(f"{name} false is not supported without an answer that goes on", param=name)
    return continues


def _held(asked: ChatBody, told: Mapping[str, Any], form: AnswerFormat, *, tools: bool, calls: str) -> Held | None:
    """What the answer is held to."""
    thinks = form.thoughts is not None and not (
        form.switches and all(told.get(name) is False for name in form.switches)
    )
    held, name = answer_fields.held(asked, thinks=thinks)
    if held is None:
        return Held(calls, is_text=False, thinks=thinks) if calls else None
    if tools:
        raise RequestError(f"{name} is not supported together with tools", param=name)
    if held.is_whole and thinks:
        how = '; switch that off with reasoning_effort "none"' if form.switches else ""
        raise RequestError(f"{name} is not supported while this model thinks{how}", param=name)
    return held


def _limit(asked: ChatBody, default: int | None) -> int | None:
    name = "max_tokens" if asked.max_completion_tokens is None else "max_completion_tokens"
    return answer_fields.limit(getattr(asked, name), default, name)


def _logprobs(asked: ChatBody) -> int | None:
    if asked.logprobs:
        return asked.top_logprobs or 0
    if asked.top_logprobs:
        raise RequestError("top_logprobs is not supported without logprobs: true", param="top_logprobs")
    return None
