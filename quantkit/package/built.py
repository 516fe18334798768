"""Finding what to run: a GGUF file, or the models and settings of a built folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from quantkit.errors import GGUFError, QuantkitError
from quantkit.package.manifest import MANIFEST, ggufs_hint, read_manifest


@dataclass(frozen=True)
class RunnablePackage:
    """A model file and how it is to be run.

    Attributes:
        gguf: the model file.
        system: the system prompt, None for none.
        parameters: Ollama parameters besides stop, name -> value text.
        stops: texts that end an answer.
    """

    gguf: Path
    system: str | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)
    stops: tuple[str, ...] = ()


def open_package(path: Path) -> RunnablePackage:
    """The model at *path*: the GGUF file itself, or the first model of a built folder with its settings.

    Raises:
        GGUFError: no such file.
        QuantkitError: a folder without a manifest, with a broken one, or whose model file is missing.
    """
    return open_all(path)[0]


def open_all(path: Path) -> tuple[RunnablePackage, ...]:
    """Every model at *path*, as :func:`open_package`."""
    if path.is_dir():
        return _open_folder(path)
    if not path.exists():
        raise GGUFError(f"{path}: no such file or folder", hint="give a .gguf file or a folder made by quantkit build")
    return (RunnablePackage(gguf=path),)


def _open_folder(folder: Path) -> tuple[RunnablePackage, ...]:
    manifest = read_manifest(folder)
    chat = manifest.chat
    for model in manifest.models:
        if not (folder / model.file).is_file():
            raise QuantkitError(
                f"{folder / model.file}: {MANIFEST} lists it, but it is not there", hint=ggufs_hint(folder)
            )
    return tuple(
        RunnablePackage(gguf=folder / model.file, system=chat.system, parameters=chat.settings, stops=chat.all_stops)
        for model in manifest.models
    )
