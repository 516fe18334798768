"""``quantkit edit``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from quantkit.cli.completers import complete_template
from quantkit.cli.options import FOLDER, json_option, pairs, recipe_option, run_options
from quantkit.cli.output import print_json
from quantkit.system.terminal_text import one_line
from quantkit.system.units import size

if TYPE_CHECKING:
    from quantkit.jobs.run_options import RunOptions


@click.command("edit")
@click.argument("gguf", type=FOLDER)
@click.option(
    "--set",
    "values",
    metavar="KEY=VALUE",
    multiple=True,
    callback=pairs,
    help="Set a metadata entry, e.g. general.license=mit; lists are written as JSON. Repeatable.",
)
@click.option("--remove", metavar="KEY", multiple=True, help="Remove a metadata entry. Repeatable.")
@click.option(
    "--template",
    metavar="NAME|FILE",
    shell_complete=complete_template,
    help="Chat template to write: a named format or a Jinja file, checked against the vocabulary.",
)
@click.option("--name", metavar="TEXT", help="Name of the model: general.name.")
@recipe_option("out", metavar="FILE", help="GGUF file to write (default: change GGUF itself).")
@click.option("--dry-run", is_flag=True, help="Print old and new values, and change nothing.")
@run_options("overwrite", "fsync")
@json_option
def command(
    gguf: Path,
    values: tuple[tuple[str, str], ...],
    remove: tuple[str, ...],
    template: str | None,
    name: str | None,
    out: Path | None,
    dry_run: bool,
    run: RunOptions,
    as_json: bool,
) -> None:
    """Change metadata of a GGUF file, or of a split model's first part.

    It is changed in place if the new header has the length of the old one; else the file is written once more. An entry
    keeps its type, and what belongs to the tensors cannot be changed.

    Example: quantkit edit model.gguf --name 'My model' --set llama.context_length=16384
    """
    from quantkit.gguf.edited import shown
    from quantkit.jobs.edit import edit

    done = edit(gguf, values=values, remove=remove, template=template, name=name, out=out, dry_run=dry_run, run=run)
    if as_json:
        print_json(
            {
                "schema": 1,
                "file": str(done.file),
                "changes": [change.to_json() for change in done.changes],
                "written": done.written,
                "dry_run": dry_run,
                "size": done.nbytes,
                "notes": run.reporter.notes,
            }
        )
        return
    for change in done.changes:
        click.echo(one_line(f"{change.key}  {change.type}"))
        click.echo(one_line(f"  old  {shown(change.old)}"))
        click.echo(one_line(f"  new  {shown(change.new)}"))
    what = f"would be {done.written}" if dry_run else done.written
    click.echo(one_line(f"{out or gguf}  {what}  {size(done.nbytes)}"))
