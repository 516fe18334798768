"""What commands print: results as JSON or for people, and progress."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quantkit.system.shell import command
from quantkit.system.streams import carries
from quantkit.system.terminal_text import harmless, one_line
from quantkit.system.units import size

if TYPE_CHECKING:
    from quantkit.jobs.ollama_create import CreatedModel
    from quantkit.system.progress import Reporter
    from quantkit.verify.report import Check

# In click's context: a result has been printed as JSON.
_PRINTED = "quantkit.printed"


def print_file(out: Path, made: Path, kind: str, notes: list[str], as_json: bool) -> None:
    """The result of a command that wrote one GGUF model: its file, or the first of its parts."""
    from quantkit.gguf.model import read_model

    model = read_model(made)
    if as_json:
        parts = {"parts": [str(file) for file in model.files]} if len(model.files) > 1 else {}
        print_json({"schema": 1, "file": str(made), **parts, "type": kind, "size": model.nbytes, "notes": notes})
    elif len(model.files) > 1:
        click.echo(f"{out.with_name(made.name)}  {kind}  {size(model.nbytes)} in {len(model.files)} parts")
    else:
        click.echo(f"{out}  {kind}  {size(model.nbytes)}")


def print_created(made: CreatedModel) -> None:
    """The result of creating a model in Ollama."""
    click.echo(one_line(f"created {made.name} in Ollama {made.version}"))
    click.echo(f">>> {harmless(made.question)}")
    click.echo(harmless(made.answer))
    click.echo(f"next: {command('ollama', 'run', made.name)}")


def print_check(check: Check, name: str | None = None) -> None:
    """One line; of a check that failed also what was asked for, and the evidence."""
    mark = click.style("ok  ", fg="green") if check.passed else click.style("FAIL", fg="red", bold=True)
    wanted = f"  (must be: {check.threshold})" if not check.passed and check.threshold else ""
    click.echo(f"  {mark}  " + one_line(f"{name or check.name:<22} {check.figure}{wanted}"))
    if not check.passed:
        indent = " " * 8  # no line of it may look like a check
        click.echo(indent + harmless(check.evidence).replace("\n", "\n" + indent))


def reporter(as_json: bool = False) -> Reporter:
    """A progress bar for people; silence for programs."""
    from quantkit.system.progress import Reporter, TerminalReporter

    return TerminalReporter(bar=sys.stderr.isatty()) if not as_json else Reporter()


def has_printed() -> bool:
    """Whether the command has printed its result as JSON."""
    return _PRINTED in click.get_current_context().meta


def print_json(value: dict[str, Any]) -> None:
    """The result of ``--json``."""
    click.get_current_context().meta[_PRINTED] = True
    text = json.dumps(value, ensure_ascii=False, indent=1)
    if not carries(sys.stdout, text):  # escaped, nothing is lost
        text = json.dumps(value, indent=1)
    click.echo(text)
