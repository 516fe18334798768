"""Options and helpers that commands share."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from quantkit.progress import Reporter

F = TypeVar("F", bound=Callable[..., Any])

# click's own existence check would exit with 2 and no hint; ours are QuantkitErrors
FOLDER = click.Path(path_type=Path)


def compute_options(function: F) -> F:
    """``--device`` and ``--threads``."""
    function = click.option(
        "--threads", type=click.IntRange(min=1), help="Workers; default one a core. The result is the same."
    )(function)
    return click.option(
        "--device", default="auto", show_default=True, help="Where to merge: auto, cpu, cuda or cuda:N."
    )(function)


def write_options(function: F) -> F:
    """``--overwrite`` and ``--fsync``."""
    function = click.option("--overwrite", is_flag=True, help="Replace an existing output.")(function)
    return click.option("--fsync", is_flag=True, help="Flush to the disk before the output gets its name.")(function)


def json_option(function: F) -> F:
    """``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")(function)


def pairs(ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """``KEY=VALUE`` options as pairs."""
    found = []
    for value in values:
        key, equals, rest = value.partition("=")
        if not equals or not key:
            raise click.BadParameter(f"{value!r} is not KEY=VALUE", ctx=ctx, param=parameter)
        found.append((key, rest))
    return tuple(found)


def package_options(function: F) -> F:
    """``--template``, ``--system`` and ``--param``."""
    function = click.option(
        "--param", "parameters", multiple=True, callback=pairs, metavar="KEY=VALUE",
        help="Parameter for the Modelfile and the chat scripts, e.g. temperature=0.2. Repeatable.",
    )(function)  # fmt: skip
    function = click.option("--system", help="Default system prompt.")(function)
    return click.option(
        "--template", default="auto", show_default=True,
        help="Chat format: auto (the model's own), a name (llama-3, chatml) or a Jinja file.",
    )(function)  # fmt: skip


def reporter(as_json: bool = False) -> Reporter:
    """A progress bar for people; silence for programs."""
    from quantkit.progress import Reporter, TerminalReporter

    return TerminalReporter(bar=sys.stderr.isatty()) if not as_json else Reporter()


def print_json(value: dict[str, Any]) -> None:
    """The result of ``--json``."""
    click.echo(json.dumps(value, ensure_ascii=False, indent=1))
