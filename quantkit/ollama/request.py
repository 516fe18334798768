"""What a Modelfile asks of an Ollama server: the files it is made from, and the fields of a create request."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from quantkit.errors import ChatFormatError, GGUFError
from quantkit.gguf.header import read_header
from quantkit.ollama.modelfile import Command
from quantkit.ollama.parameters import PARAMETERS
from quantkit.ollama.read_modelfile import source_path

_PART = "[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"
NAME = re.compile(rf"(([A-Za-z0-9_][A-Za-z0-9_.:-]{{0,349}}/)?[A-Za-z0-9_][A-Za-z0-9_-]{{0,79}}/)?{_PART}(:{_PART})?")
"""Of a model in Ollama."""

_SINGLE = {
    "TEMPLATE": "template",
    "SYSTEM": "system",
    "PARSER": "parser",
    "RENDERER": "renderer",
    "REQUIRES": "requires",
}
_PYTHON: dict[str, Callable[[str], Any]] = {"int": int, "float": float, "bool": "true".__eq__}


def sources(modelfile: Path, commands: Iterable[Command]) -> tuple[list[Path], str | None]:
    """What a model is made from: GGUF files, and the name of a model that Ollama has or can get, None if it needs none.

    Raises:
        ChatFormatError: it needs an adapter or a draft model.
        GGUFError: a file is not there, is no GGUF file, or has the name of another one.
    """
    files: list[Path] = []
    model = None
    for command in commands:
        if command.keyword in ("ADAPTER", "DRAFT"):
            raise ChatFormatError(
                f"{modelfile}: {command.keyword} is not supported: Ollama takes whole models",
                hint="merge an adapter into the model: quantkit build MODEL --adapter DIR",
            )
        if command.keyword != "FROM":
            continue
        path = source_path(modelfile, command.value)
        if os.path.isfile(path):  # where Path.is_file raises, at a name that is too long
            read_header(path)  # nothing but models leaves this machine
            if path.name in (file.name for file in files):
                raise GGUFError(
                    f"{modelfile}: two files of FROM lines have the name {path.name}, by which Ollama tells them apart",
                    hint="rename one of them",
                )
            files.append(path)
        elif os.path.isdir(path) or not NAME.fullmatch(command.value) or command.value.endswith(".gguf"):
            raise GGUFError(
                f"{modelfile}: FROM {command.value[:80]}: there is no such GGUF file",
                hint="put it beside the Modelfile",
            )
        else:
            model = command.value
    return files, model


def fields(commands: Sequence[Command]) -> dict[str, Any]:
    """The body of a create request, but for the model's name and its files."""
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
