"""``quantkit inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from quantkit.cli.options import FOLDER, json_option, print_json
from quantkit.units import size


@click.command("inspect")
@click.argument("path", type=FOLDER)
@json_option
def command(path: Path, as_json: bool) -> None:
    """Show what is in a checkpoint, an adapter or a GGUF file. No weight is read."""
    from quantkit.inspection import inspect

    found = inspect(path)
    if as_json:
        print_json({"schema": 1, **found})
        return
    for key, value in found.items():
        if key not in ("tensors", "metadata"):
            click.echo(f"{key:16} {_text(key, value)}")
    for key, value in found.get("metadata", {}).items():
        click.echo(f"  {key:44} {_one_line(value)}")
    for tensor in found["tensors"]:
        click.echo(f"  {tensor['name']:56} {tensor['type']:6} {tensor['shape']}")


def _text(key: str, value: Any) -> str:
    if key == "size":
        return size(value)
    if isinstance(value, dict):
        return ", ".join(f"{name} x {count}" for name, count in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value)


def _one_line(value: Any) -> str:
    text = str(value)
    return repr(text[:77] + "..." if len(text) > 80 else text) if isinstance(value, str) else text
