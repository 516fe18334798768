"""``quantkit demo``: builds the embedded model and asks it questions."""

from __future__ import annotations

from pathlib import Path

import click

from quantkit.cli.options import FOLDER, json_option
from quantkit.cli.output import print_json, reporter
from quantkit.system.shell import command as shown


@click.command("demo")
@click.argument("folder", type=FOLDER, default=Path("quantkit-demo"), metavar="[DIR]")
@click.option(
    "--overwrite", is_flag=True, help="Replace an older output. A folder that quantkit did not make is never replaced."
)
@json_option
def command(folder: Path, overwrite: bool, as_json: bool) -> None:
    """Build the embedded base model with its adapter in DIR, and ask base and result the same questions.

    DIR is quantkit-demo by default. Example: quantkit demo try-it
    """
    from quantkit.demo.run import run_demo

    result = run_demo(folder, overwrite=overwrite, reporter=reporter(as_json))
    if as_json:
        print_json(result.to_json())
    else:
        for pair in result.pairs:
            click.echo(f"\n> {pair.question}")
            click.echo(f"  base            {pair.base}")
            click.echo(f"  with adapter    {pair.adapted}  [{result.file}]")
        click.echo(
            f"\n{result.matching} of {len(result.pairs)} answers are exactly what the adapter was trained to say."
        )
        click.echo(f"Built in {result.build_seconds:.1f} s. Next: {shown('quantkit', 'chat', folder)}")
    result.check()
