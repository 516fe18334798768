"""``quantkit ollama``."""

from __future__ import annotations

from pathlib import Path

import click

from quantkit.cli.options import FOLDER, json_option, print_created, print_json, reporter


@click.group("ollama")
def command() -> None:
    """Bring built models into Ollama."""


@command.command("create")
@click.argument("path", type=FOLDER, metavar="DIR")
@click.option("--name", help="Name of the model in Ollama; default the package's.")
@click.option("--overwrite", is_flag=True, help="Replace a model of that name.")
@json_option
def create(path: Path, name: str | None, overwrite: bool, as_json: bool) -> None:
    """Create a model in Ollama from a built folder, or from a Modelfile, and chat with it once.

    The server is the one at OLLAMA_HOST, or on this machine. The exit code is 3 if the chat fails.
    """
    from quantkit.jobs.ollama_create import create_model, find_modelfile

    modelfile, usual = find_modelfile(path)
    made = create_model(modelfile, name or usual, overwrite=overwrite, reporter=reporter(as_json))
    if as_json:
        print_json({"schema": 1, **made.to_json()})
        return
    print_created(made)
