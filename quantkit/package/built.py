"""Finding what to run: a GGUF file, or the models and settings of a built folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quantkit.errors import CheckpointError, GGUFError, QuantkitError
from quantkit.files.json_file import read_json

MANIFEST = "manifest.json"


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
    chat = manifest.get("chat", {})
    models = manifest.get("models")
    if not isinstance(chat, dict) or not isinstance(models, list) or not models:
        raise _broken(folder, 'it must have a "chat" object and a list of "models"')
    system = chat.get("system")
    if system is not None and not isinstance(system, str):
        raise _broken(folder, '"chat.system" must be a text or null')
    asked = chat.get("parameters", {})
    if not isinstance(asked, dict):
        raise _broken(folder, '"chat.parameters" must be an object')
    # The chat format's, and the user's on top, as in the Modelfile.
    stops = dict.fromkeys(
        (*_texts(folder, "stops", chat.get("stops", [])), *_texts(folder, "parameters.stop", asked.get("stop", [])))
    )
    parameters = {name: str(value) for name, value in asked.items() if name != "stop"}
    return tuple(
        RunnablePackage(gguf=_model_file(folder, model), system=system, parameters=parameters, stops=tuple(stops))
        for model in models
    )


def read_manifest(folder: Path) -> dict[str, Any]:
    """A package's manifest.json, of the schema known here.

    Raises:
        QuantkitError: there is none, or it is broken.
    """
    path = folder / MANIFEST
    if not path.exists():
        raise QuantkitError(
            f"{folder}: no {MANIFEST}, so this is not a folder made by quantkit build", hint=_files_to_try(folder)
        )
    try:
        manifest = read_json(path)
    except CheckpointError as error:
        raise QuantkitError(str(error), hint=_files_to_try(folder)) from None
    if manifest.get("schema") != 1:
        raise _broken(folder, f'"schema" is {manifest.get("schema")!r}, and this version reads schema 1')
    return manifest


def _texts(folder: Path, key: str, value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise _broken(folder, f'"chat.{key}" must be a list of texts')
    return value


def _model_file(folder: Path, model: object) -> Path:
    file = model.get("file") if isinstance(model, dict) else None
    if not isinstance(file, str) or not file or Path(file).name != file:
        raise _broken(folder, f"a model's file must be a name inside the folder, not {file!r}")
    if not (folder / file).is_file():
        raise QuantkitError(f"{folder / file}: {MANIFEST} lists it, but it is not there", hint=_files_to_try(folder))
    return folder / file


def _files_to_try(folder: Path) -> str:
    files = sorted(folder.glob("*.gguf"))
    if not files:
        return "there is no .gguf file in it; make one with: quantkit build MODEL -o DIR"
    return "give one of the files: " + ", ".join(str(file) for file in files)


def _broken(folder: Path, why: str) -> QuantkitError:
    return QuantkitError(f"{folder / MANIFEST}: {why}", hint=_files_to_try(folder))
