"""Finding what to run: a GGUF file, or the models and settings of a built folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from quantkit.errors import GGUFError, QuantizationError, QuantkitError
from quantkit.ggml.types import ftype_name
from quantkit.gguf.lora import ScaledLora
from quantkit.package.manifest import MANIFEST, ggufs_hint, read_manifest


@dataclass(frozen=True)
class RunnablePackage:
    """A model file and how it is to be run.

    Attributes:
        gguf: the model file.
        system: the system prompt, None for none.
        parameters: Ollama parameters besides stop, name -> value text.
        stops: texts that end an answer.
        quant: its type, "" for a file by itself.
        others: the types of the further models in its folder.
        loras: the LoRA files that it is run with.
    """

    gguf: Path
    system: str | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)
    stops: tuple[str, ...] = ()
    quant: str = ""
    others: tuple[str, ...] = ()
    loras: tuple[ScaledLora, ...] = ()


def open_package(path: Path, quant: str | None = None) -> RunnablePackage:
    """The model at *path*: the GGUF file itself, or a model of a built folder with its settings.

    Args:
        path: of the file or the folder.
        quant: the type of the model in the folder; None for the first.

    Raises:
        GGUFError: no such file.
        QuantizationError: there is no such type, or none of the folder's models has it.
        QuantkitError: a folder without a manifest, with a broken one, or whose model file is missing.
    """
    packages = open_all(path)
    if quant is None:
        return packages[0]
    wanted = ftype_name(quant)
    for package in packages:
        if package.quant == wanted:
            return package
    if not packages[0].quant:
        raise QuantizationError(
            f"{path}: this is a file, and --quant chooses one in a folder", hint="leave out --quant, or give the folder"
        )
    raise QuantizationError(
        f"{path}: no file of the type {wanted}",
        hint=f"use one of: {', '.join(package.quant for package in packages)}",
    )


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
    for lora in manifest.loras:
        if not (folder / lora.file).is_file():
            raise QuantkitError(
                f"{folder / lora.file}: {MANIFEST} lists it, but it is not there",
                hint="copy it there again; the models alone are not what the package says",
            )
    loras = tuple(ScaledLora(folder / lora.file, lora.scale) for lora in manifest.loras if lora.scale is not None)
    return tuple(
        RunnablePackage(
            gguf=folder / model.file,
            system=chat.system,
            parameters=chat.settings,
            stops=chat.all_stops,
            quant=model.quant,
            others=tuple(other.quant for other in manifest.models if other is not model),
            loras=loras,
        )
        for model in manifest.models
    )
