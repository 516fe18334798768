"""Renders a model's own Jinja chat template, which is untrusted text.

Every chat template goes through :func:`ask`, so one function decides what it may see and how many resources it may use:
a separate process (:mod:`quantkit.chat_template.process`) with limits on time and memory renders it in a sandbox
(:mod:`quantkit.chat_template.sandbox`). Probing a template needs dozens of renders, so it also happens in that process,
as one question.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from quantkit.errors import ChatFormatError

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
    text = ask(
        "render",
        template=template,
        messages=[dict(message) for message in messages],
        bos_token=bos_token,
        eos_token=eos_token,
        add_generation_prompt=add_generation_prompt,
        dates=dates,
        thinking=thinking,
        told=dict(told or {}),
    )
    assert isinstance(text, str)
    return text


def render_undated(template: str, messages: Sequence[Message], **told: Any) -> str:
    """As :func:`render_jinja`, without today's date unless the template needs it: the same text on different days.

    Args:
        template, messages: as there.
        **told: its other arguments but *dates*.

    Raises:
        ChatFormatError: as there.
    """
    text = ask("render undated", template=template, messages=[dict(message) for message in messages], **told)
    assert isinstance(text, str)
    return text


def ask(what: str, **arguments: Any) -> Any:
    """The answer to one of :data:`quantkit.chat_template.worker.QUESTIONS`, as JSON values.

    Raises:
        ChatFormatError: as :func:`render_jinja`.
    """
    from quantkit.chat_template.process import shared_process

    reply = shared_process().ask({"do": what, **arguments})
    if "refused" in reply:
        raise ChatFormatError(reply["refused"])
    return reply["value"]
