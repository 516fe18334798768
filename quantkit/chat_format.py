"""How a model wants to be prompted: turns and stops, as a plain value.

A chat template is a program, and Ollama, shell scripts and people need a description. :func:`derive` finds it by
rendering probing conversations whose contents are sentinel texts, cutting the result at the sentinels, and then
proving the description: ``ChatFormat.render`` must give the template's own text on a set of conversations, with and
without a system message. A template that turns cannot describe is refused with the reason. Reading the template's
source for known strings was rejected: templates with the same strings behave differently.

A named format is nothing special: it is derived from its own ``templates/<name>/chat_template.jinja``.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

from quantkit.chat_probe import probe
from quantkit.chat_template import render_jinja
from quantkit.chat_turns import ChatFormat, Turn
from quantkit.errors import ChatFormatError

__all__ = [
    "FORMAT_NAMES",
    "ChatFormat",
    "Turn",
    "choose_format",
    "derive",
    "named_format",
    "named_template",
    "render_jinja",
]

_TEMPLATES = Path(__file__).parent / "templates"

# name -> (bos_token, eos_token) of the models the format comes from
_NAMED_TOKENS = {"llama-3": ("<|begin_of_text|>", "<|eot_id|>"), "chatml": ("", "<|im_end|>")}

FORMAT_NAMES: tuple[str, ...] = tuple(_NAMED_TOKENS)

_NAME_IT = "name the format: " + " or ".join(f"--template {name}" for name in FORMAT_NAMES)


def named_template(name: str) -> str:
    """The Jinja chat template of a named format.

    Raises:
        ChatFormatError: there is no format of that name.
    """
    if name not in _NAMED_TOKENS:
        raise ChatFormatError(f"there is no chat format named {name!r}", hint=f"use one of: {', '.join(FORMAT_NAMES)}")
    return (_TEMPLATES / name / "chat_template.jinja").read_text(encoding="utf-8").removesuffix("\n")


@cache
def named_format(name: str) -> ChatFormat:
    """The format of that name, with the tokens of the models it comes from.

    Raises:
        ChatFormatError: there is no format of that name.
    """
    template = named_template(name)
    bos_token, eos_token = _NAMED_TOKENS[name]
    return replace(probe(template, bos_token=bos_token, eos_token=eos_token), name=name)


def choose_format(
    template: str | None, *, option: str = "auto", bos_token: str, eos_token: str
) -> tuple[ChatFormat, str]:
    """The format to package a model with, and the Jinja text that belongs into its GGUF.

    Args:
        template: the model's own chat template, None or "" if it has none.
        option: "auto" for the model's own, the name of a format, or the path of a file with a Jinja chat template.
        bos_token: text of the model's beginning-of-sequence token, "" if it has none.
        eos_token: text of its end-of-sequence token, "" if it has none.

    Raises:
        ChatFormatError: there is no template to take, or turns cannot describe it.
    """
    if option == "auto":
        if not template:
            raise ChatFormatError("the model has no chat template of its own", hint=_NAME_IT)
        chosen = template
    elif option not in FORMAT_NAMES and Path(option).is_file():
        try:
            chosen = Path(option).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ChatFormatError(
                f"{option}: the chat template cannot be read: {error}", hint="save it as UTF-8"
            ) from error
    else:
        chosen = named_template(option)
    return derive(chosen, bos_token=bos_token, eos_token=eos_token), chosen


def derive(template: str, *, bos_token: str, eos_token: str) -> ChatFormat:
    """Describe a chat template by turns, and prove the description on probing conversations.

    Args:
        template: the Jinja text of the model's chat template.
        bos_token: text of the model's beginning-of-sequence token, "" if it has none.
        eos_token: text of its end-of-sequence token, "" if it has none.

    Raises:
        ChatFormatError: the template is broken, or turns cannot describe what it does.
    """
    try:
        found = probe(template, bos_token=bos_token, eos_token=eos_token)
    except ChatFormatError as error:
        raise ChatFormatError(str(error), hint=_NAME_IT) from error
    for name in FORMAT_NAMES:
        known = named_format(name)
        if (found.system, found.user, found.assistant) == (known.system, known.user, known.assistant):
            return replace(found, name=name)
    return found
