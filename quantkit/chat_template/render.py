"""A model's own Jinja chat template, which is untrusted text: asking what it writes.

Every chat template goes through :func:`ask` and nothing else, so there is one place that decides what it may see and
what it may cost: a process of its own (:mod:`quantkit.chat_template.process`), with limits on time and memory, that
renders in a sandbox (:mod:`quantkit.chat_template.sandbox`). Probing a template is dozens of renders, so that happens
over there too, and is one question.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from quantkit.errors import ChatFormatError

Message = Mapping[str, str]


def render_jinja(
    template: str,
    messages: Sequence[Message],
    *,
    bos_token: str,
    eos_token: str,
    add_generation_prompt: bool = True,
    dates: bool = True,
    thinking: bool | None = None,
) -> str:
    """Render a conversation as transformers' ``apply_chat_template`` does.

    Args:
        template: the Jinja text of the model's chat template.
        messages: mappings with ``role`` and ``content``.
        bos_token: the text of the model's beginning-of-sequence token, "" if it has none.
        eos_token: the text of its end-of-sequence token, "" if it has none.
        add_generation_prompt: whether an answer is asked for.
        dates: whether the template can ask for today's date; without it, templates that want one fall back to a fixed
            date of their own, so the result does not change from day to day.
        thinking: ``enable_thinking``, which some templates ask for; None leaves it undefined, as transformers does.

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
    )
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
