"""Turns a Modelfile into a create request for an Ollama server: the files to upload, and the fields."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from quantkit.errors import ChatFormatError, GGUFError
from quantkit.gguf.header import read_header
from quantkit.gguf.lora import ScaledLora, read_lora
from quantkit.ollama.modelfile import Command
from quantkit.ollama.parameters import PARAMETERS
from quantkit.ollama.read_modelfile import source_path

_PART = "[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"
NAME = re.compile(rf"(([A-Za-z0-9_][A-Za-z0-9_.:-]{{0,349}}/)?[A-Za-z0-9_][A-Za-z0-9_-]{{0,79}}/)?{_PART}(:{_PART})?")
"""The name of a model in Ollama."""

_SINGLE = {
    "TEMPLATE": "template",
    "SYSTEM": "system",
    "PARSER": "parser",
    "RENDERER": "renderer",
    "REQUIRES": "requires",
}
_PYTHON: dict[str, Callable[[str], Any]] = {"int": int, "float": float, "bool": "true".__eq__}


NO_ADAPTER = "0.34.0"
"""The first version of Ollama that refuses an ADAPTER."""


def sources(modelfile: Path, commands: Iterable[Command]) -> tuple[list[Path], str | None]:
    """Return the sources of a model: GGUF files, and the name of a model that Ollama has or can pull, else None.

    Raises:
        ChatFormatError: it needs a draft model.
        GGUFError: a file is missing, is not a GGUF file, or has the same name as another one.
    """
    files: list[Path] = []
    model = None
    for command in commands:
        if command.keyword == "DRAFT":
            raise ChatFormatError(f"{modelfile}: DRAFT is not supported by quantkit", hint="remove the line")
        if command.keyword != "FROM":
            continue
        path = source_path(modelfile, command.value)
        if os.path.isfile(path):  # Path.is_file would raise at a name that is too long
            read_header(path)  # only models may be uploaded
            if path.name in (file.name for file in files):
                raise GGUFError(
                    f"{modelfile}: two FROM lines name a file {path.name}, and Ollama needs different names",
                    hint="rename one of them",
                )
            files.append(path)
        elif os.path.isdir(path) or not NAME.fullmatch(command.value) or command.value.endswith(".gguf"):
            raise GGUFError(
                f"{modelfile}: FROM {command.value[:80]}: no such GGUF file",
                hint="put it next to the Modelfile",
            )
        else:
            model = command.value
    return files, model


def adapters(modelfile: Path, commands: Iterable[Command]) -> list[Path]:
    """Return the LoRA files that a model is run with.

    Raises:
        ChatFormatError: there are several, and Ollama supports one.
        GGUFError: one is missing, or is not a LoRA file.
    """
    paths = [source_path(modelfile, command.value) for command in commands if command.keyword == "ADAPTER"]
    if len(paths) > 1:
        raise ChatFormatError(
            f"{modelfile}: has {len(paths)} ADAPTER lines, and Ollama supports one LoRA file",
            hint="merge them: quantkit merge BASE.gguf --lora FILE --lora FILE -o MERGED.gguf",
        )
    for path in paths:
        read_lora(ScaledLora(path))
    return paths


def fields(commands: Sequence[Command]) -> dict[str, Any]:
    """Return the body of a create request, without the model's name and its files."""
    body: dict[str, Any] = {
        _SINGLE[command.keyword]: command.value for command in commands if command.keyword in _SINGLE
    }
    parameters: dict[str, Any] = {}
    for command in commands:
        if command.keyword != "PARAMETER":
            continue
        kind = PARAMETERS[command.key]
        if kind == "string":
            parameters.setdefault(command.key, []).append(command.value)
        else:
            parameters[command.key] = _PYTHON[kind](command.value)
    lists = {
        "parameters": parameters,
        "license": [command.value for command in commands if command.keyword == "LICENSE"],
        "messages": [
            {"role": command.key, "content": command.value} for command in commands if command.keyword == "MESSAGE"
        ],
    }
    return body | {key: value for key, value in lists.items() if value}
