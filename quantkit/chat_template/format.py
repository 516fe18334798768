"""A model's chat format: its turns and stop sequences, as a plain value.

A chat template is a program, but Ollama, shell scripts and people need a description. :func:`derive` finds it: it
renders probing conversations whose contents are sentinel texts, cuts the result at the sentinels, and proves the
description: ``ChatFormat.render`` must return the template's own prompt for a set of conversations, with and without a
system message. Searching the template's source for known strings was rejected, because templates with the same strings
behave differently.

If turns cannot express what a template does (removing thoughts from earlier answers, reacting to words in contents,
writing today's date), the result is an :class:`OwnTemplate` with the reason. Such a model is packaged without a
TEMPLATE, and Ollama renders the Jinja template of the GGUF file like llama.cpp. An approximate TEMPLATE was rejected,
because Ollama would prefer it to the correct template.

A template that mentions tools or thinking, but whose plain conversations are turns, still gets a TEMPLATE. A new Ollama
sees that the TEMPLATE does not mention these and uses the Jinja template, with tools; an old one only knows TEMPLATE,
and writes the same prompts without tools. ``PARSER passthrough`` would make the new one use the TEMPLATE, without
tools, and an old one rejects the line. So it is written only if the package's system prompt had to go into the
TEMPLATE, because no SYSTEM line can contain it.

A named format is derived in the same way, from its own ``templates/<name>/chat_template.jinja``.
"""

from __future__ import annotations

import os
from collections.abc import Container
from dataclasses import replace
from functools import cache
from pathlib import Path

from quantkit.chat_template.render import ask, render_jinja
from quantkit.chat_template.turns import ChatFormat, OwnTemplate, Shape, SystemPlace, Turn, read_format
from quantkit.errors import ChatFormatError
from quantkit.system.did_you_mean import choose_hint
from quantkit.system.template_folder import template_folder

__all__ = [
    "FORMAT_NAMES",
    "ChatFormat",
    "OwnTemplate",
    "Shape",
    "SystemPlace",
    "Turn",
    "choose_format",
    "derive",
    "named_format",
    "named_template",
    "render_jinja",
]

# name -> (bos_token, eos_token) of the models the format comes from
_NAMED_TOKENS = {
    "llama-3": ("<|begin_of_text|>", "<|eot_id|>"),
    "llama-3.1": ("<|begin_of_text|>", "<|eot_id|>"),
    "chatml": ("", "<|im_end|>"),
    "llama-2": ("<s>", "</s>"),
    "mistral": ("<s>", "</s>"),
    "gemma": ("<bos>", "<eos>"),
    "phi-3": ("<s>", "<|endoftext|>"),
    "alpaca": ("<s>", "</s>"),
}

FORMAT_NAMES: tuple[str, ...] = tuple(_NAMED_TOKENS)

_NAME_IT = f"choose the format that it was trained on: --template NAME, one of {', '.join(FORMAT_NAMES)}"


def named_template(name: str) -> str:
    """The Jinja chat template of a named format.

    Raises:
        ChatFormatError: there is no format of that name.
    """
    if name not in _NAMED_TOKENS:
        raise ChatFormatError(f"there is no chat format named {name[:80]!r}", hint=choose_hint(name, FORMAT_NAMES))
    return (template_folder() / name / "chat_template.jinja").read_text(encoding="utf-8").removesuffix("\n")


@cache
def named_format(name: str) -> ChatFormat:
    """The format of that name, with the tokens of the models it comes from.

    Raises:
        ChatFormatError: there is no format of that name.
    """
    template = named_template(name)
    bos_token, eos_token = _NAMED_TOKENS[name]
    found = _describe(template, bos_token, eos_token)
    assert isinstance(found, ChatFormat)
    return replace(found, name=name)


def choose_format(
    template: str | None,
    *,
    option: str = "auto",
    bos_token: str,
    eos_token: str,
    tokens: Container[str] | None = None,
) -> tuple[ChatFormat | OwnTemplate, str]:
    """The chat format for packaging a model, and the Jinja template to write into its GGUF file.

    Args:
        template: the model's own chat template, None or "" if it has none.
        option: "auto" for the model's own template, the name of a format, or the path of a Jinja chat template.
        bos_token: text of the model's beginning-of-sequence token, "" if it has none.
        eos_token: text of its end-of-sequence token, "" if it has none.
        tokens: its vocabulary; None if unknown.

    Raises:
        ChatFormatError: there is no template, or it cannot write a plain conversation.
    """
    if option == "auto":
        if not template:
            raise ChatFormatError("the model has no chat template", hint=_NAME_IT)
        chosen = template
    elif option not in FORMAT_NAMES and os.path.isfile(
        option
    ):  # Path.is_file raises an error for a name that is too long
        try:
            chosen = Path(option).read_text(encoding="utf-8-sig")  # a byte order mark would begin every prompt
        except (OSError, UnicodeDecodeError) as error:
            raise ChatFormatError(
                f"{option}: the chat template cannot be read: {error}", hint="save it as UTF-8"
            ) from error
    else:
        chosen = named_template(option)
    return derive(chosen, bos_token=bos_token, eos_token=eos_token, tokens=tokens), chosen


def derive(
    template: str, *, bos_token: str, eos_token: str, tokens: Container[str] | None = None
) -> ChatFormat | OwnTemplate:
    """Describe a chat template by turns, and prove the description on probing conversations.

    Args:
        template: the Jinja text of the model's chat template.
        bos_token: text of the model's beginning-of-sequence token, "" if it has none.
        eos_token: text of its end-of-sequence token, "" if it has none.
        tokens: the model's vocabulary. None if unknown: the text that ends an answer then counts as a token, if turns
            cannot describe the template.

    Returns:
        The turns, or the reason why there are none.

    Raises:
        ChatFormatError: the template is broken, cannot write a plain conversation, or nothing ends an answer.
    """
    try:
        found = _describe(template, bos_token, eos_token)
        if tokens is not None:
            found = replace(found, stops=_that_are_tokens(found, tokens, eos_token))
        if isinstance(found, OwnTemplate):
            return found
    except ChatFormatError as error:
        raise ChatFormatError(str(error), hint=_NAME_IT) from error
    for name in FORMAT_NAMES:
        known = named_format(name)
        if _turns(found) == _turns(known):
            return replace(found, name=name)
    return found


def _turns(chat: ChatFormat) -> tuple[object, ...]:
    return chat.system, chat.system_place, chat.user, chat.assistant, chat.generation


def _describe(template: str, bos_token: str, eos_token: str) -> ChatFormat | OwnTemplate:
    return ask("describe", read_format, template=template, bos_token=bos_token, eos_token=eos_token)


def _that_are_tokens(found: ChatFormat | OwnTemplate, tokens: Container[str], eos_token: str) -> tuple[str, ...]:
    """The stops that are tokens; where none is and turns are not known, the end of a sequence."""
    if stops := tuple(stop for stop in found.stops if stop in tokens):
        return stops
    if isinstance(found, ChatFormat):
        return found.stops
    if not eos_token:
        raise ChatFormatError(
            f"the chat template ends an answer with {found.stops[0]!r}, which is not a token, and the model has no "
            "end-of-sequence token"
        )
    return (eos_token,)
