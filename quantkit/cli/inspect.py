"""``quantkit inspect``: shows what is in a file or folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from quantkit.cli.completers import complete_path
from quantkit.cli.options import folder_or_id, json_option
from quantkit.cli.output import print_json, reporter
from quantkit.system.terminal_text import one_line
from quantkit.system.units import size

if TYPE_CHECKING:
    from quantkit.hub.source import Source


# What is printed in lines of its own, below the single values.
_BELOW = ("tensors", "metadata", "account", "models", "notes")


@click.command("inspect")
@click.argument("source", metavar="PATH", type=folder_or_id, shell_complete=complete_path)
@click.option("--tensors", "every_tensor", is_flag=True, help="List every tensor (--json always does).")
@json_option
def command(source: Source, every_tensor: bool, as_json: bool) -> None:
    """Show what is in a checkpoint, an adapter, a GGUF file or a package, without reading the weights.

    PATH is a folder, a .gguf file or a Hugging Face id such as Qwen/Qwen2.5-0.5B.
    """
    from quantkit.jobs.inspect import inspect

    found = inspect(source, reporter=reporter(as_json))
    if as_json:
        print_json({"schema": 1, **found})
        return
    for key, value in found.items():
        if key not in _BELOW:
            click.echo(one_line(f"{key:16} {_text(key, value)}"))
    for entry in found.get("account", ()):
        click.echo(one_line(f"  {entry['role']:12} {entry['name']}: {entry['what']}"))
    for key, value in found.get("metadata", {}).items():
        click.echo(one_line(f"  {key:44} {_value(value)}"))
    for model in found.get("models", ()):
        click.echo(one_line(f"  {model['file']}  {model['type']}  {size(model['size'])}"))
    for note in found.get("notes", ()):
        click.echo(one_line(f"  note: {note}"))
    if not every_tensor:
        click.echo(f"{'tensors':16} {len(found['tensors'])} (--tensors lists them)")
        return
    for tensor in found["tensors"]:
        click.echo(one_line(f"  {tensor['name']:56} {tensor['type']:6} {tensor['shape']}"))


def _text(key: str, value: Any) -> str:
    if key == "size":
        return size(value)
    if key == "settings":
        return ", ".join(f"{name} {one}" for name, one in value.items())
    if value is None:
        return "none"
    if isinstance(value, dict):
        return ", ".join(f"{name} x {count}" for name, count in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value)


def _value(value: Any) -> str:
    text = str(value)
    return repr(text[:77] + "..." if len(text) > 80 else text) if isinstance(value, str) else text
