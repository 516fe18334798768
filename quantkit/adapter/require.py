"""Refuses what is no adapter's folder, by what it is."""

from __future__ import annotations

from pathlib import Path

from quantkit.checkpoint.other_formats import folder_of_file, folders_below, give_hint
from quantkit.errors import AdapterError
from quantkit.system.shell import command

_CONFIG = "adapter_config.json"


def require_adapter(path: Path) -> None:
    """Refuse what is no folder of an adapter.

    Raises:
        AdapterError: saying what it is, and what to give instead.
    """
    if path.is_file():
        if path.suffix == ".gguf":
            raise AdapterError(
                f"{path}: this is a GGUF file, not an adapter as PEFT saves it",
                hint=f"give the folder with {_CONFIG} that it was made from",
            )
        raise AdapterError(f"{path}: this is a file, not an adapter's folder", hint=folder_of_file(path, _CONFIG))
    if not path.is_dir():
        raise AdapterError(
            f"{path}: no such folder",
            hint=f"give the folder that contains {_CONFIG}, or the adapter's Hugging Face id: ORG/NAME",
        )
    if not (path / _CONFIG).is_file():
        if (path / "config.json").is_file() and not folders_below(path, _CONFIG):
            raise AdapterError(
                f"{path}: {_CONFIG} is missing: this is a model, not an adapter",
                hint=f"to build it as it is: {command('quantkit', 'build', path)}",
            )
        raise AdapterError(
            f"{path}: {_CONFIG} is missing",
            hint=give_hint(path, _CONFIG, "give the folder that PEFT's save_pretrained wrote"),
        )
