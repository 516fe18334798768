"""``quantkit farm``."""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from quantkit.cli.options import FOLDER, json_option, run_options
from quantkit.cli.output import print_json
from quantkit.errors import QuantkitError
from quantkit.system.shell import command as shown
from quantkit.system.terminal_text import one_line
from quantkit.system.units import size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quantkit.farm.events import Events
    from quantkit.farm.values import Outcome
    from quantkit.jobs.run_options import RunOptions


@click.command("farm")
@click.argument("recipes", nargs=-1, required=True, type=FOLDER, metavar="RECIPE.toml...|DIR")
@click.option(
    "--ray",
    "address",
    metavar="ADDRESS",
    help="The Ray cluster: auto, or HOST:PORT of its head (default: one on this machine, started for the builds).",
)
@click.option("--log", type=FOLDER, metavar="FILE.jsonl", help="Add every event to this file, as a line of JSON.")
@click.option("--no-verify", is_flag=True, help="Skip every check that loads a model.")
@run_options("device", "threads", "overwrite", "fsync")
@json_option
def command(
    recipes: tuple[Path, ...], address: str | None, log: Path | None, no_verify: bool, run: RunOptions, as_json: bool
) -> None:
    """Build many recipes on a Ray cluster, or on this machine.

    A recipe is the TOML file of `quantkit build --recipe`; with a table [matrix] it is one build for each
    combination of its values. What is there already, whole and made from the same, is kept, so the same command goes on
    where it was stopped.

    Example: quantkit farm recipes/ --log farm.jsonl
    """
    from quantkit.cli.farm_table import Lines, live_table
    from quantkit.farm.events import Both, Log
    from quantkit.farm.recipes import read_recipes
    from quantkit.farm.run import farm

    wanted = read_recipes(recipes)
    with ExitStack() as held:
        heard: list[Events] = [] if log is None else [held.enter_context(Log(log))]
        if not as_json:
            heard.append(held.enter_context(live_table()) if sys.stderr.isatty() else Lines())
        outcomes = farm(wanted, ray_address=address, verify=not no_verify, events=Both(*heard), run=run)
    _print(outcomes, as_json)
    if failed := [outcome for outcome in outcomes if outcome.failure is not None]:
        raise QuantkitError(
            f"{len(failed)} of {len(outcomes)} builds failed: {', '.join(one.label for one in failed[:5])}"
            + (f" and {len(failed) - 5} more" if len(failed) > 5 else ""),
            hint=f"mend them, and go on with {shown('quantkit', 'farm', *recipes)}",
        )


def _print(outcomes: Sequence[Outcome], as_json: bool) -> None:
    """What became of each build; of those that failed the error and its hint."""
    counted = Counter(outcome.state for outcome in outcomes)
    counts = {state: counted[state] for state in ("built", "kept", "failed")}
    if as_json:
        print_json({"schema": 1, **counts, "builds": [outcome.to_json() for outcome in outcomes]})
        return
    for outcome in outcomes:
        what = f"{size(outcome.size)} in {outcome.seconds:.1f} s on {outcome.node}" if outcome.size else outcome.state
        click.echo(one_line(f"{outcome.folder}  {what}"))
        if outcome.failure is not None:
            click.echo(one_line(f"  error: {outcome.failure.message}"))
            click.echo(one_line(f"  hint: {outcome.failure.hint}"))
    click.echo(", ".join(f"{count} {state}" for state, count in counts.items()))
