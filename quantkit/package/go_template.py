"""A chat format as the Go template that Ollama's TEMPLATE is.

Every fixed text is written as a Go string literal, so neither Go's white-space trimming nor the quoting of the
Modelfile can change it. The template begins with the beginning-of-sequence token only if the model's own template does
and llama.cpp does not add it by itself: otherwise the token would be doubled, or missing.
"""

from __future__ import annotations

import re

from quantkit.chat_template.format import ChatFormat, SystemPlace
from quantkit.package.text import fill, go_quote

# What may stand before the first text of a template: blanks and actions that print nothing.
_SILENT = re.compile(r"(\s|\{\{-?\s*(if|range|with|define|else|end|block|/\*|\$\w*\s*:?=)[^}]*\}\})*")
_LITERAL = re.compile(r"\{\{-?\s*[\"`]?")


def go_template(chat: ChatFormat, *, default_system: str | None = None, adds_bos: bool = True) -> str:
    """Return the chat format as a template for Ollama.

    It contains both of Ollama's forms: the list of messages, and the system, prompt and response of old versions. If
    an answer in the history begins differently from the one to be generated, or the system message belongs into the
    last question, the old form cannot express it and writes what is right for a first question.
    Contents are not trimmed, whatever ``chat.trims`` says, because Go templates cannot.

    Args:
        chat: the format.
        default_system: the system prompt for conversations without one, instead of the format's own.
        adds_bos: whether llama.cpp puts the beginning-of-sequence token before the prompt.
    """
    text = default_system if default_system is not None else chat.default_system
    opening = chat.system.around(text) if chat.system is not None and text is not None else None
    place = SystemPlace.TURN if chat.system is None else chat.system_place
    values = {
        "chat": chat,
        "bos": "" if adds_bos else chat.bos,
        "opening": opening,
        "place": place.name,
        "question": _question(chat, place, opening),
    }
    return fill("template.gotmpl", {**values, "literal": _literal}).removesuffix("\n")


def _question(chat: ChatFormat, place: SystemPlace, opening: str | None) -> str:
    """Return Go that opens a question of the list: its prefix, or the system message that takes its place."""
    prefix = _literal(chat.user.prefix)
    if chat.system is None or place is SystemPlace.TURN:
        return prefix
    opened = '(eq (index $.Messages 0).Role "system")'  # with an empty text too
    if place is SystemPlace.FIRST:
        carries = f"(or (eq $i 0) (and (eq $i 1) {opened}))"
    else:
        carries = "(eq (len (slice $.Messages $i)) 1)"
    system = _literal(chat.system.prefix) + "{{ $.System }}" + _literal(chat.system.suffix)
    default = "" if opening is None else f" if {carries} }}}}{_literal(opening)}{{{{ else"
    return f"{{{{ if and {carries} (or $.System {opened}) }}}}{system}{{{{ else{default} }}}}{prefix}{{{{ end }}}}"


def _literal(text: str) -> str:
    """Return Go that writes a text unchanged."""
    return f"{{{{ {go_quote(text)} }}}}" if text else ""


def opens_with(template: str, text: str) -> bool:
    """Whether a template begins by printing a text, as far as reading the template can tell."""
    rest = template[_end(_SILENT, template) :]
    return rest.startswith(text) or rest[_end(_LITERAL, rest) :].startswith(text)


def _end(pattern: re.Pattern[str], text: str) -> int:
    match = pattern.match(text)
    return match.end() if match else 0
