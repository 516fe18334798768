"""Refuses a folder where a GGUF file is wanted, by what is in it."""

from __future__ import annotations

from pathlib import Path

from quantkit.errors import GGUFError
from quantkit.files.visible import visible
from quantkit.system.shell import command


def refuse_folder(path: Path) -> GGUFError:
    """The error for a folder, with what to give or to do instead."""
    if ggufs := visible(path, "*.gguf"):
        return GGUFError(f"{path}: this is a folder, not a GGUF file", hint=f"give a file in it: {command(ggufs[0])}")
    if (path / "config.json").is_file():
        return GGUFError(
            f"{path}: this is a checkpoint, not a GGUF file",
            hint=command("quantkit", "build", path, "--quant", "q4_0", "-o", "DIR"),
        )
    return GGUFError(f"{path}: this is a folder, not a GGUF file", hint="give the path of a .gguf file")
