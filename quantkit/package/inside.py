"""Refuses a Modelfile of a package that takes something from elsewhere: a model to download, another folder's file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from quantkit.errors import OllamaError
from quantkit.ollama.modelfile import Command
from quantkit.package.own_files import foreign, is_own

_TAKES = ("FROM", "ADAPTER", "DRAFT")


def require_inside(modelfile: Path, commands: Iterable[Command]) -> None:
    """Check that what a Modelfile is made from are files of its own folder.

    Args:
        modelfile: where it is.
        commands: what it says.

    Raises:
        OllamaError: it names a model to download, a file elsewhere, or a link to one.
    """
    folder = modelfile.parent
    for command in commands:
        if command.keyword not in _TAKES:
            continue
        name = command.value.removeprefix("./")
        inside = "/" not in name and "\\" not in name and not name.startswith("~") and is_own(folder, name)
        if not inside:
            what = foreign(folder, name) if "/" not in name else None
            raise OllamaError(
                f"{modelfile}: {command.keyword} {command.value[:80]} is "
                + (what or "no file of this package")
                + ", and a package is made from its own files",
                hint="take the Modelfile of the original package; one of your own can be in a folder of its own",
            )
