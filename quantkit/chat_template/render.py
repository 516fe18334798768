"""Renders a model's own Jinja chat template, which is untrusted text.

Every chat template goes through :func:`ask`, so one function decides what it may see and how many resources it may use:
a separate process (:mod:`quantkit.chat_template.process`) with limits on time and memory renders it in a sandbox
(:mod:`quantkit.chat_template.sandbox`). Probing a template needs dozens of renders, so it also happens in that process,
as one question.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from quantkit.errors import ChatFormatError

_T = TypeVar("_T")

Message = Mapping[str, Any]
"""A message has "role" and "content"; with tools also other fields, as templates read them."""


def render_jinja(
    template: str,
    messages: Sequence[Message],
    *,
    bos_token: str,
    eos_token: str,
    add_generation_prompt: bool = True,
    dates: bool = True,
    thinking: bool | None = None,
    told: Mapping[str, Any] | None = None,
) -> str:
    """Render a conversation as transformers' ``apply_chat_template`` does.

    Args:
        template: the Jinja text of the model's chat template.
        messages: mappings with ``role`` and ``content``.
        bos_token: the text of the model's beginning-of-sequence token, "" if it has none.
        eos_token: the text of its end-of-sequence token, "" if it has none.
        add_generation_prompt: whether the prompt asks for an answer.
        dates: whether the template can use today's date; without it, templates use their own fixed date, so the result
            does not change from day to day.
        thinking: ``enable_thinking``, which some templates use; None leaves it undefined, as transformers does.
        told: further variables, such as ``tools`` or ``reasoning_effort``.

    Raises:
        ChatFormatError: the template does not parse, fails, refuses the conversation, reaches outside the sandbox, or
            was stopped because it takes too long or too much memory.
    """
    return ask(
        "render",
        _text,
        template=template,
        messages=[dict(message) for message in messages],
        bos_token=bos_token,
        eos_token=eos_token,
        add_generation_prompt=add_generation_prompt,
        dates=dates,
        thinking=thinking,
        told=dict(told or {}),
    )


def render_undated(template: str, messages: Sequence[Message], **told: Any) -> str:
    """As :func:`render_jinja`, without today's date unless the template needs it: the same text on different days.

    Args:
        template, messages: as there.
        **told: its other arguments but *dates*.

    Raises:
        ChatFormatError: as there.
    """
    return ask("render undated", _text, template=template, messages=[dict(message) for message in messages], **told)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def ask(what: str, read: Callable[[Any], _T], **arguments: Any) -> _T:
    """The answer to one of :data:`quantkit.chat_template.worker.QUESTIONS`.

    Args:
        what: the question.
        read: makes it of JSON values.
        **arguments: of the question.

    Raises:
        ChatFormatError: as :func:`render_jinja`; or the process answers something else.
    """
    from quantkit.chat_template.process import shared_process

    reply = shared_process().ask({"do": what, **arguments})
    if "refused" in reply:
        raise ChatFormatError(str(reply["refused"]))
    try:
        return read(reply["value"])
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ChatFormatError("the chat template made the process that runs it answer nonsense") from None
