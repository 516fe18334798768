"""Reads an existing Modelfile, as the start of a package or of a model in Ollama."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from quantkit.errors import ChatFormatError, GGUFError, QuantkitError
from quantkit.ollama.go_syntax import check_go_syntax
from quantkit.ollama.modelfile import Command, parse_modelfile
from quantkit.ollama.parameters import check_parameters
from quantkit.system.shell import command

PASSTHROUGH = "passthrough"
"""The PARSER that does nothing, and so makes Ollama use the TEMPLATE."""

_LARGEST = 16 << 20  # bytes: licenses of any length
_GIVE = "give the path of a Modelfile"
_BYTE_ORDER_MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


@dataclass(frozen=True)
class ModelfileContent:
    """The content of a Modelfile, in the terms of a package.

    Attributes:
        sources: the text of each FROM.
        adapters: the text of each ADAPTER.
        template: its Go TEMPLATE.
        forced: whether it makes Ollama use that TEMPLATE in any case.
        system: its system prompt.
        parameters: name and value text.
        licenses: license texts.
        messages: roles and texts.
        requires: the version of Ollama it requires.
    """

    sources: tuple[str, ...]
    template: str | None
    forced: bool
    system: str | None
    parameters: tuple[tuple[str, str], ...]
    licenses: tuple[str, ...]
    messages: tuple[tuple[str, str], ...]
    requires: str | None
    adapters: tuple[str, ...] = ()


def small_text(path: Path) -> str:
    """Read a Modelfile as text, in UTF-8.

    Raises:
        OSError: it cannot be read.
        UnicodeDecodeError: another encoding.
        QuantkitError: too large for a Modelfile.
    """
    return _small(path).decode("utf-8")


def _small(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(_LARGEST + 1)
    if len(data) > _LARGEST:
        raise QuantkitError(f"{path}: too large for a Modelfile", hint=_GIVE)
    return data


def read_modelfile(path: Path) -> tuple[Command, ...]:
    """Read the commands of a Modelfile, in UTF-8 or, as Windows writes it, in UTF-16 with a byte order mark.

    Raises:
        QuantkitError: it cannot be read.
        ChatFormatError: Ollama would refuse it.
    """
    try:
        data = _small(path)
    except OSError as error:
        raise QuantkitError(f"{path}: cannot be read ({error.strerror or error})", hint=_GIVE) from None
    try:
        text = data.decode(_BYTE_ORDER_MARKS.get(data[:2], "utf-8"))
    except UnicodeDecodeError as error:
        raise ChatFormatError(
            f"{path}: not valid UTF-8 ({error.reason})", hint="give a Modelfile, saved as UTF-8"
        ) from None
    try:
        commands = parse_modelfile(text)
        check_parameters((command.key, command.value) for command in commands if command.keyword == "PARAMETER")
        for command in [command for command in commands if command.keyword == "TEMPLATE"][
            -1:
        ]:  # the one that Ollama uses
            check_go_syntax(command.value)
    except ChatFormatError as error:
        raise ChatFormatError(f"{path}: {error}", hint=error.hint) from None
    return commands


def modelfile_content(path: Path) -> ModelfileContent:
    """Read the content of a Modelfile, if a package can contain it.

    Of commands that may appear once, the last one applies, as in Ollama.

    Raises:
        QuantkitError: it cannot be read.
        ChatFormatError: Ollama would refuse it, or it has a command that packages do not support.
    """
    commands = read_modelfile(path)

    def values(keyword: str) -> tuple[str, ...]:
        return tuple(command.value for command in commands if command.keyword == keyword)

    def last(keyword: str) -> str | None:
        return next(reversed(values(keyword)), None) or None

    for keyword, hint in (
        ("DRAFT", "remove the line"),
        ("RENDERER", "remove the line: the chat template of the GGUF file is used"),
    ):
        if values(keyword):
            raise ChatFormatError(f"{path}: {keyword} is not supported in a package", hint=hint)
    parser, template = last("PARSER"), last("TEMPLATE")
    if parser is not None and (parser != PASSTHROUGH or template is None):
        raise ChatFormatError(f"{path}: PARSER {parser} is not supported in a package", hint="remove the line")
    return ModelfileContent(
        sources=values("FROM"),
        template=template,
        forced=parser is not None,
        system=last("SYSTEM"),
        parameters=tuple((c.key, c.value) for c in commands if c.keyword == "PARAMETER"),
        licenses=values("LICENSE"),
        messages=tuple((c.key, c.value) for c in commands if c.keyword == "MESSAGE"),
        requires=last("REQUIRES"),
        adapters=values("ADAPTER"),
    )


def source_path(modelfile: Path, source: str) -> Path:
    """Return the path that a FROM means: relative to the Modelfile, with ``~`` as the home folder."""
    return modelfile.parent / os.path.expanduser(source)


def source_files(modelfile: Path, sources: Sequence[str]) -> tuple[Path, ...]:
    """Return the GGUF files that a Modelfile is made from: a model, and perhaps what it sees with.

    Raises:
        GGUFError: it names more than two, or one that does not exist.
    """
    hint = f"name the files: quantkit package FILE.gguf --modelfile {modelfile} -o DIR"
    if len(sources) > 2:
        raise GGUFError(
            f"{modelfile}: has {len(sources)} FROM lines, and a package contains one model and its projector", hint=hint
        )
    return tuple(_source_file(modelfile, source, hint) for source in sources)


def _source_file(modelfile: Path, source: str, hint: str) -> Path:
    path = source_path(modelfile, source)
    if os.path.isfile(path / "config.json"):
        raise GGUFError(
            f"{modelfile}: FROM {source[:80]} is a checkpoint, and a package is made of GGUF files",
            hint=f"build it from the checkpoint: {command('quantkit', 'build', os.path.normpath(path))}",
        )
    if not os.path.isfile(path):  # Path.is_file would raise at a name that is too long
        raise GGUFError(f"{modelfile}: FROM {source[:80]}: no such file", hint=hint)
    return path
