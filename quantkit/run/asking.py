"""Asks a model with the settings of its answers: what a chat template is told, and answers divided into their parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from quantkit.chat_template.answer_reader import AnswerReader, Part
from quantkit.errors import ChatFormatError
from quantkit.run.answer import DividedAnswer, alone
from quantkit.run.continuing import cut_answer
from quantkit.run.held_answer import answer_grammar
from quantkit.run.interrupts import always
from quantkit.run.session import ChatModel, Messages
from quantkit.run.settings import Settings

if TYPE_CHECKING:
    from quantkit.run.logprobs import Scores


def template_variables(settings: Settings, tools: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the chat template is told besides the messages."""
    return {**settings.told, **({"tools": list(tools)} if tools else {})}


def stream_answer(
    model: ChatModel,
    messages: Messages,
    settings: Settings,
    *,
    tools: Sequence[Mapping[str, Any]] = (),
    go_on: Callable[[], bool] = always,
    reuse: bool = True,
    continues: bool = False,
) -> Iterator[Part]:
    """:meth:`ChatModel.stream` with these settings, divided into thoughts, text and calls.

    Args:
        model: the model that answers.
        messages: the conversation.
        settings: how it answers.
        tools: the tools that it may call, as OpenAI's API has them.
        go_on, reuse: see there.
        continues: whether the last message is an answer that goes on; what comes is its rest.

    Raises:
        ChatFormatError: the template rejects the conversation, or its calls of tools cannot be read.
        ContextFullError: the conversation does not fit into the context.
    """
    answer = prepare_answer(model, messages, settings, tools=tools, go_on=go_on, reuse=reuse, continues=continues)
    try:
        parts: Iterator[Part] = alone(answer.steps(model.engine.lanes))
        yield from parts
    finally:
        model.last_stats = answer.stats


def prepare_answer(
    model: ChatModel,
    messages: Messages,
    settings: Settings,
    *,
    tools: Sequence[Mapping[str, Any]] = (),
    go_on: Callable[[], bool] = always,
    reuse: bool = True,
    scores: Scores | None = None,
    continues: bool = False,
) -> DividedAnswer:
    """What :func:`stream_answer` answers, before anything is evaluated; see :meth:`ChatModel.prepare`."""
    form, told = model.answers, template_variables(settings, tools)
    if tools and form.calls is None:
        raise ChatFormatError(f"tools cannot be used with this model: of its chat template, {form.no_calls}")
    divided = form.thoughts is not None or bool(tools) or settings.held is not None
    functions = [tool["function"] for tool in tools]
    if continues:
        cut = cut_answer(model, messages, told, go_on)
        opening, said, prompt = cut.opening, cut.said, cut.tokens
    else:
        opening, said = model.opening(messages, told) if divided else "", ""
        prompt = model.fitting_tokens(model.render(messages, told=told), go_on)
    offered = {function["name"]: function.get("parameters") or {} for function in functions}
    reader = AnswerReader(form, opening if divided else "", offered)
    reader.resume(said)
    answer = model.prepare_tokens(
        prompt,
        max_tokens=model.n_ctx if settings.max_tokens is None else settings.max_tokens,
        stops=settings.stops,
        go_on=go_on,
        reuse=reuse,
        grammar=answer_grammar(settings.held, form, reader) if settings.held else "",
        bias=settings.bias,
        loras=settings.loras,
        scores=scores,
        shown=model.marker_tokens if divided else (),
        **settings.sampling,
    )
    return DividedAnswer(answer, reader)
