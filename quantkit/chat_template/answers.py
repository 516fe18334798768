"""How a model's chat template lets it answer, and past answers in the form that the template reads.

Callers keep a thought as ``reasoning_content``, and the arguments of a call as JSON text, as OpenAI's clients do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from quantkit.chat_template.answer_format import AnswerFormat, read_answer_format, thoughtful
from quantkit.chat_template.render import ask
from quantkit.errors import ChatFormatError

THOUGHT = "reasoning_content"
"""The field of a message for its thought."""


def answer_format(template: str, *, bos_token: str, eos_token: str) -> AnswerFormat:
    """How a template lets a model answer; nothing but text where it refuses every plain conversation.

    Args:
        template: the Jinja text.
        bos_token: text of the model's beginning-of-sequence token, "" if it has none.
        eos_token: text of its end-of-sequence token, "" if it has none.
    """
    try:
        return ask("answers", read_answer_format, template=template, bos_token=bos_token, eos_token=eos_token)
    except ChatFormatError as error:
        return AnswerFormat(no_calls=str(error))


def as_template_reads(messages: Sequence[Mapping[str, Any]], form: AnswerFormat) -> list[dict[str, Any]]:
    """Messages with thoughts and calls where the template looks for them; it decides what stays of them.

    Raises:
        ChatFormatError: there is a call or a tool's result, and the template cannot have any.
    """
    return [_message(message, form) for message in messages]


def _message(message: Mapping[str, Any], form: AnswerFormat) -> dict[str, Any]:
    field = (form.thoughts and form.thoughts.field) or THOUGHT  # most templates read it, some only beside calls
    calls = message.get("tool_calls")
    if (calls or message["role"] == "tool") and form.calls is None:
        raise ChatFormatError(f"the chat template cannot have calls of tools: {form.no_calls}")
    changed = {key: value for key, value in message.items() if key != THOUGHT}
    if thought := message.get(THOUGHT):
        changed |= thoughtful(message["content"], thought, field)
    if calls and form.calls is not None and not form.calls.text_arguments:
        changed["tool_calls"] = [_with_values(call) for call in calls]
    return changed


def _with_values(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    try:
        return {**call, "function": {**function, "arguments": json.loads(function["arguments"])}}
    except ValueError:
        raise ChatFormatError(
            f"the arguments of a call of {function['name']} are not JSON", hint="send them as the model wrote them"
        ) from None
