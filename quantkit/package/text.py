"""Renders ``templates/generic/``, with filters that quote any text for its context.

The delimiters are square brackets, because braces belong to Go templates and shells.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING

from quantkit.errors import ChatFormatError
from quantkit.system.shell import powershell_literal
from quantkit.system.template_folder import template_folder

if TYPE_CHECKING:
    from jinja2 import Environment


def fill(template: str, values: Mapping[str, object]) -> str:
    """Return the text of ``templates/generic/<template>`` with values filled in."""
    return _environment().get_template(template).render(values)


def sh_quote(text: str) -> str:
    """Return a text as one word of a POSIX shell.

    Raises:
        ChatFormatError: it contains a NUL character.
    """
    return shlex.quote(_without_nul(text))


def powershell_quote(text: str) -> str:
    """Return a text as a PowerShell literal.

    Raises:
        ChatFormatError: it contains a NUL character.
    """
    return powershell_literal(_without_nul(text))


def go_quote(text: str) -> str:
    """Return a text as an interpreted Go string: printable characters unchanged, everything else escaped."""
    return '"' + "".join(map(_go_character, text)) + '"'


def without_controls(text: str) -> str:
    """Return a text for a comment or a table: line ends and control characters become spaces."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def markdown_code(text: str) -> str:
    """Return a text as inline code in Markdown, whatever backticks it contains."""
    line = without_controls(text)
    fence = "`" * (_longest_run(line) + 1)
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def markdown_block(text: str) -> str:
    """Return a text as a fenced block in Markdown, whatever backticks it contains."""
    fence = "`" * max(3, _longest_run(text) + 1)
    return f"{fence}text\n{text}\n{fence}"


def markdown_plain(text: str) -> str:
    """Return a text as plain text in Markdown."""
    return re.sub(r"([\\`*_{}\[\]<>#|~$&!])", r"\\\1", without_controls(text))


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(template_folder() / "generic"),
        undefined=StrictUndefined,
        block_start_string="[%",
        block_end_string="%]",
        variable_start_string="[[",
        variable_end_string="]]",
        comment_start_string="[#",
        comment_end_string="#]",
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters |= {
        "sh": sh_quote,
        "ps1": powershell_quote,
        "go": go_quote,
        "line": without_controls,
        "code": markdown_code,
        "block": markdown_block,
        "md": markdown_plain,
    }
    return environment


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise ChatFormatError(f"a command line cannot contain the NUL character in {text[:40]!r}")
    return text


def _go_character(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    if character.isprintable():
        return character
    short = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(character)
    code = ord(character)
    return short or (f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)
