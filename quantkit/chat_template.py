"""Running a model's own Jinja chat template, which is untrusted text.

Every chat template goes through :func:`render_jinja` and nothing else, so there is one place that decides what a
template may see: the conversation, the two token texts, and the few helpers that transformers gives it. The
environment is jinja2's immutable sandbox with the white-space settings of ``apply_chat_template``, so the text is the
one the model was trained on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn

from quantkit.errors import ChatFormatError

if TYPE_CHECKING:
    from jinja2 import Template

Message = Mapping[str, str]

# What evaluating an expression of a foreign template can raise besides jinja2's own errors.
_EVALUATION_ERRORS = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


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
        ChatFormatError: the template does not parse, fails, refuses the conversation or reaches outside the sandbox.
    """
    from jinja2 import TemplateError

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
    try:
        return _compile(template).render(variables)
    except TemplateError as error:
        raise ChatFormatError(f"the chat template refuses this conversation: {error.message or error}") from error
    except _EVALUATION_ERRORS as error:
        raise ChatFormatError(f"the chat template fails: {type(error).__name__}: {error}") from error


@lru_cache(maxsize=32)
def _compile(template: str) -> Template:
    from jinja2 import TemplateSyntaxError, nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class GenerationTag(Extension):
        """``{% generation %}`` marks the trained part of a template; it prints what is inside it."""

        tags = {"generation"}  # noqa: RUF012  (jinja2 declares it as an instance attribute)

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    try:
        return environment.from_string(template)
    except TemplateSyntaxError as error:
        raise ChatFormatError(f"the chat template is not valid Jinja: line {error.lineno}: {error.message}") from error
    except RecursionError as error:
        raise ChatFormatError("the chat template is nested too deeply") from error


def _raise_exception(message: str) -> NoReturn:
    from jinja2 import TemplateError

    raise TemplateError(message)


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
