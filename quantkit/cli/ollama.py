"""``quantkit ollama``: imports packages into Ollama."""

from __future__ import annotations

from pathlib import Path

import click

from quantkit.cli.options import FOLDER, json_option
from quantkit.cli.output import print_created, print_json, reporter


@click.group("ollama")
def command() -> None:
    """Import built models into Ollama."""


@command.command("create")
@click.argument("path", type=FOLDER, metavar="DIR")
@click.option("--name", help="Name of the model in Ollama (default: the package's name).")
@click.option("--overwrite", is_flag=True, help="Replace an existing model of that name.")
@json_option
def create(path: Path, name: str | None, overwrite: bool, as_json: bool) -> None:
    """Create a model in Ollama from a built folder or a Modelfile, and test it with one question.

    The server is the one at OLLAMA_HOST, else the one on this machine. The exit code is 3 if the test fails.

    Example: quantkit ollama create my-model
    """
    from quantkit.jobs.ollama_create import create_model, find_modelfile

    modelfile, usual = find_modelfile(path)
    made = create_model(modelfile, name or usual, overwrite=overwrite, reporter=reporter(as_json))
    if as_json:
        print_json({"schema": 1, **made.to_json()})
        return
    print_created(made)
