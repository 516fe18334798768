"""Runs a model's own Jinja chat template, inside the process for templates.

The environment is jinja2's immutable sandbox with the white-space settings of ``apply_chat_template``, so the text is
the one that the model was trained on. A template sees the conversation, the two token texts and the few helpers that
transformers provides. This prevents access to anything else, but not endless loops or filling the memory: only
:mod:`quantkit.chat_template.worker` calls this module, in a process with limits. All other code uses
:mod:`quantkit.chat_template.render`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, TemplateSyntaxError, meta, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from quantkit.errors import ChatFormatError

MAX_TEXT = 1 << 24
"""Maximum length of a prompt in characters: more than any model's context."""

# Errors besides jinja2's own that evaluating an untrusted template can raise.
_EVALUATION_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NameError,
    RuntimeError,
    TypeError,
    ValueError,
)
_LONGEST_REASON = 500
_GIVEN = frozenset(
    {"add_generation_prompt", "bos_token", "documents", "eos_token", "messages", "tools"}
    | {"cycler", "dict", "joiner", "lipsum", "namespace", "raise_exception", "range", "strftime_now"}
)


class TextTooLongError(Exception):
    """A template writes more than :data:`MAX_TEXT`. Not a :class:`ChatFormatError`, so that probing stops."""


def render(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    bos_token: str,
    eos_token: str,
    add_generation_prompt: bool = True,
    dates: bool = True,
    thinking: bool | None = None,
    told: Mapping[str, Any] | None = None,
) -> str:
    """As :func:`quantkit.chat_template.render.render_jinja`, in this process and without limits.

    *told* has further variables.

    Raises:
        ChatFormatError: the template does not parse, fails, refuses the conversation or reaches outside the sandbox.
        TextTooLongError: the text is longer than :data:`MAX_TEXT`.
        MemoryError: the template fills the memory that this process may use.
    """
    variables: dict[str, Any] = {
        "messages": [dict(message) for message in messages],
        "bos_token": bos_token,
        "eos_token": eos_token,
        "add_generation_prompt": add_generation_prompt,
        "tools": None,
        "documents": None,
    }
    if dates:
        variables["strftime_now"] = _strftime_now
    if thinking is not None:
        variables["enable_thinking"] = thinking
    variables |= told or {}
    try:
        text = _compile(template).render(variables)
    except TemplateError as error:
        raise ChatFormatError(f"the chat template refuses this conversation: {_reason(error)}") from error
    except _EVALUATION_ERRORS as error:
        raise ChatFormatError(f"the chat template fails: {type(error).__name__}: {_reason(error)}") from error
    if len(text) > MAX_TEXT:
        raise TextTooLongError
    return text


def render_undated(template: str, messages: Sequence[Mapping[str, Any]], **told: Any) -> str:
    """As :func:`render`, without today's date unless the template needs it."""
    try:
        return render(template, messages, dates=False, **told)
    except ChatFormatError:
        return render(template, messages, dates=True, **told)


def variables(template: str) -> tuple[str, ...]:
    """The variables that a template reads from its caller, apart from those that every caller gives.

    Raises:
        ChatFormatError: the template does not parse.
    """
    _compile(template)
    found = meta.find_undeclared_variables(_environment().parse(template))
    return tuple(sorted(found - _GIVEN))


class _GenerationTag(Extension):
    """``{% generation %}`` marks the trained part of a template; it renders its content."""

    tags = {"generation"}  # noqa: RUF012  (jinja2 declares it as an instance attribute)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    return environment


@lru_cache(maxsize=32)
def _compile(template: str) -> Template:
    environment = _environment()
    try:
        return environment.from_string(template)
    except TemplateSyntaxError as error:
        reason = _reason(error)
        raise ChatFormatError(f"the chat template is not valid Jinja: line {error.lineno}: {reason}") from error
    except SyntaxError as error:  # jinja2 generates Python, which has its own rules and limits
        raise ChatFormatError(f"the chat template is not valid Jinja: {_reason(error)}") from error
    except RecursionError as error:
        raise ChatFormatError("the chat template is nested too deeply") from error


def _reason(error: Exception) -> str:
    """An untrusted text for an error message: short, and without control characters."""
    own = error.message if isinstance(error, TemplateError) else error.msg if isinstance(error, SyntaxError) else None
    text = own or str(error)
    return "".join(c if c.isprintable() else " " for c in text[:_LONGEST_REASON])


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(str(message))


def _strftime_now(layout: str) -> str:
    return datetime.now().strftime(layout)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes for HTML, which would change the prompt.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
