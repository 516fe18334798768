"""``quantkit report``."""

from __future__ import annotations

import os
import sys
import webbrowser
from pathlib import Path

import click

from quantkit.cli.options import FOLDER, json_option
from quantkit.cli.output import print_json


@click.command("report")
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.option("--no-open", is_flag=True, help="Only make the page.")
@json_option
def command(folder: Path, no_open: bool, as_json: bool) -> None:
    """Show a built package in the browser: figures, plots, answers, and what was checked.

    The page is DIR/report.html, one file that needs neither the network nor scripts.

    Example: quantkit report my-model
    """
    from quantkit.jobs.report import report

    page = report(folder)
    if as_json:
        print_json({"schema": 1, "file": str(page)})
        return
    click.echo(page)
    if not no_open and _has_display():
        webbrowser.open(page.resolve().as_uri())


def _has_display() -> bool:
    """Whether a browser would have a window: without one, a browser of texts would take the terminal."""
    return sys.platform in ("win32", "darwin") or any(os.environ.get(key) for key in ("DISPLAY", "WAYLAND_DISPLAY"))
