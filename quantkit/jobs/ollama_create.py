"""Creates a package's model in Ollama, and chats with it there once.

This does what ``ollama create NAME -f Modelfile`` does: read the Modelfile by Ollama's rules, send its files to the
server as blobs, and describe the model in one request. The ``ollama`` program is not run: it would have to be on this
machine although the server may be on another, it does not report to programs, and it only warns of things that should
be refused. The chat afterwards is the proof: Ollama loads the model, it answers, and its answer ends.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantkit.errors import OllamaError, QuantkitError, VerificationError
from quantkit.ollama.modelfile import Command
from quantkit.ollama.read_modelfile import read_modelfile
from quantkit.ollama.request import NAME, NO_ADAPTER, adapters, fields, sources
from quantkit.package.inside import require_inside
from quantkit.package.manifest import MANIFEST, PACKAGE_MARK, read_manifest
from quantkit.package.ollama_modelfile import modelfile_commands
from quantkit.package.spec import PackageSpec, ollama_name, version_numbers
from quantkit.system.progress import Reporter
from quantkit.system.shell import command as shown
from quantkit.system.shell import installation

if TYPE_CHECKING:
    from quantkit.ollama.client import Server

QUESTION = "Hello! Who are you?"
MAX_TOKENS = 1024
"""The longest answer of the chat; a longer one counts as one that never ends."""

OLDEST = "0.5.5"
"""The first version of Ollama with the create request used here."""

_DEVELOPMENT = (0, 0, 0)  # reported by an Ollama built from source
_DETECTED = "using autodetected template"


@dataclass(frozen=True)
class CreatedModel:
    """A model in Ollama that has answered.

    Attributes:
        name: in Ollama.
        version: the server's version.
        modelfile: the Modelfile it was created from.
        question: the question it was asked.
        answer: its answer.
        tokens: number of tokens in the answer.
        notes: notes for the user.
    """

    name: str
    version: str
    modelfile: Path
    question: str
    answer: str
    tokens: int
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "name": self.name,
            "version": self.version,
            "modelfile": str(self.modelfile),
            "question": self.question,
            "answer": self.answer,
            "tokens": self.tokens,
            "notes": list(self.notes),
        }


def find_modelfile(path: Path) -> tuple[Path, str]:
    """Return the Modelfile of a built folder, or the one given, and the default name of its model.

    Raises:
        OllamaError: there is no Modelfile.
    """
    if path.suffix == ".gguf" and path.is_file():
        beside = (path.parent / "Modelfile").is_file()
        words = ("quantkit", "ollama", "create", path.parent) if beside else ("quantkit", "package", path, "-o", "DIR")
        raise OllamaError(f"{path}: this is a GGUF file, not a Modelfile or its folder", hint=shown(*words))
    folder, modelfile = (path, path / "Modelfile") if path.is_dir() else (path.parent, path)
    if not modelfile.is_file():
        hint = (
            "Ollama supports no split files (join them: llama-gguf-split --merge), and one LoRA file without a scale "
            "(merge it: quantkit merge BASE.gguf --lora FILE -o MERGED.gguf); then run quantkit package"
        )
        if not (folder / MANIFEST).is_file():
            hint = "give a folder made by quantkit build or quantkit package, or a Modelfile"
        raise OllamaError(f"{modelfile}: no such Modelfile", hint=hint)
    name = Path(os.path.abspath(folder)).name
    if (folder / MANIFEST).is_file():
        with suppress(QuantkitError):  # another program's, or a broken one: it is only asked for a name
            name = read_manifest(folder).name
    tag = modelfile.name.removeprefix("Modelfile.") if modelfile.name.startswith("Modelfile.") else ""
    return modelfile, ollama_name(name) + (f":{ollama_name(tag)}" if tag else "")


def check_ollama(name: str, *, overwrite: bool) -> None:
    """Check that a model can be created under a name, before the model exists.

    Raises:
        OllamaError: no server, too old a one, no name, or the name is taken.
    """
    _check_name(name)
    with connect() as server:
        _check_server(server, server.version(), name, None, overwrite=overwrite)


def check_planned(spec: PackageSpec) -> None:
    """Check that Ollama can load the default model of a package, before the package is made.

    Raises:
        OllamaError: the model is split, or the server is too old for it.
    """
    model = spec.models[0]
    if model.parts > 1:
        raise OllamaError(
            f"{model.file} is split into {model.parts} parts, and Ollama does not support split files",
            hint="leave out --split-max-size, or --ollama",
        )
    with connect() as server:
        _check_version(server, server.version(), _required(modelfile_commands(spec, model)))


def create_model(
    modelfile: Path, name: str, *, overwrite: bool = False, reporter: Reporter | None = None
) -> CreatedModel:
    """Create a model in Ollama from a Modelfile, and chat with it.

    Args:
        modelfile: the file.
        name: the model's name in Ollama.
        overwrite: whether an existing model of that name may be replaced.
        reporter: receives the progress of the upload and the notes.

    Raises:
        OllamaError: no server, too old a one, an invalid name, the name is taken, or the server refuses the model.
        ChatFormatError: Ollama would refuse the Modelfile.
        GGUFError: a file that it names is missing, or is not a GGUF file.
        VerificationError: the model was created, but does not chat.
    """
    reporter = reporter or Reporter()
    _check_name(name)
    commands = read_modelfile(modelfile)
    if PACKAGE_MARK.is_on(modelfile.parent):
        require_inside(modelfile, commands)
    files, model = sources(modelfile, commands)
    loras = adapters(modelfile, commands)
    with connect() as server:
        version = server.version()
        _check_server(server, version, name, _required(commands), overwrite=overwrite)
        if loras and _numbers(version) >= _numbers(NO_ADAPTER):
            raise OllamaError(
                f"Ollama at {server.address} is version {version}, which refuses ADAPTER, as all from {NO_ADAPTER} on",
                hint="merge it: quantkit merge BASE.gguf --lora FILE -o MERGED.gguf; then quantkit package MERGED.gguf",
            )
        with reporter.phase("uploading", 2 * sum(file.stat().st_size for file in (*files, *loras)), "bytes") as advance:
            digests, sent = ({file.name: server.upload(file, advance) for file in some} for some in (files, loras))
        request: dict[str, Any] = {"model": name, **fields(commands)}
        if digests:
            request["files"] = digests
        if sent:
            request["adapters"] = sent
        if model is not None:
            request["from"] = model
        notes = _create(server, request)
        for note in notes:
            reporter.note(note)
        answer, tokens = _chat(server, name)
    return CreatedModel(name, version, modelfile, QUESTION, answer, tokens, tuple(notes))


def connect() -> Server:
    """The Ollama server at ``OLLAMA_HOST``, or on this machine; a context manager.

    Raises:
        OllamaError: its client library is not installed, or the address is invalid.
    """
    try:
        from quantkit.ollama.client import Server
    except ImportError:
        raise OllamaError("the client library for Ollama is not installed", hint=installation("ollama")) from None
    return Server()


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise OllamaError(
            f"{name[:80]!r} is not a valid model name in Ollama",
            hint="use letters, digits, '-', '_' and '.', and optionally a tag after ':', such as my-model:q4_0",
        )


def _required(commands: Iterable[Command]) -> str | None:
    """Return the version that a Modelfile requires; the last REQUIRES applies."""
    return next(reversed([command.value for command in commands if command.keyword == "REQUIRES"]), None)


def _check_server(server: Server, version: str, name: str, requires: str | None, *, overwrite: bool) -> None:
    _check_version(server, version, requires)
    if not overwrite and server.has_model(name):
        raise OllamaError(
            f"Ollama already has a model {name}", hint="choose another name, or replace it with --overwrite"
        )


def _check_version(server: Server, version: str, requires: str | None) -> None:
    needed = max([OLDEST, *([requires] if requires else [])], key=_numbers)
    if _numbers(version) < _numbers(needed) and _numbers(version) != _DEVELOPMENT:
        raise OllamaError(
            f"Ollama at {server.address} is version {version}; this model needs {needed}",
            hint="update it from https://ollama.com/download",
        )


def _numbers(version: str) -> tuple[int, ...]:
    try:
        return version_numbers(version)
    except ValueError:
        raise OllamaError(f"{version!r} is not a version of Ollama", hint="write it like 0.33.0") from None


def _create(server: Server, request: dict[str, Any]) -> list[str]:
    """Create the model and return the notes."""
    notes, last = [], ""
    for last in server.create_model(request):
        if last.startswith(_DETECTED) and "template" not in request:
            notes.append(
                f"Ollama uses its built-in template {last.removeprefix(_DETECTED).strip()} instead of the model's own "
                "chat template, which is similar: prompts may differ"
            )
    if last != "success":
        raise OllamaError(
            f"Ollama at {server.address}: the model {request['model']} was not created (last status: {last!r})"
        )
    return notes


def _chat(server: Server, name: str) -> tuple[str, int]:
    """Ask the question; returns the answer and its number of tokens.

    Raises:
        VerificationError: there is no answer, or it does not end.
    """
    answer, thoughts, pieces = "", "", 0
    try:
        for piece in server.answer(name, [{"role": "user", "content": QUESTION}], max_tokens=MAX_TOKENS):
            answer += piece.message.content or ""
            thoughts += piece.message.thinking or ""
            pieces += 1
            if piece.done:
                return _ended(name, answer or thoughts, piece.done_reason, piece.eval_count or pieces)
            if pieces > 2 * MAX_TOKENS:
                break
    except OllamaError as error:
        raise _failed(name, str(error)) from None
    raise _failed(name, f"its answer did not end: {answer[:200]!r}")


def _ended(name: str, answer: str, reason: str | None, tokens: int) -> tuple[str, int]:
    if reason == "length":
        raise _failed(name, f"its answer did not end within {MAX_TOKENS} tokens: {answer[:200]!r}")
    if not answer.strip():
        raise _failed(name, "its answer is empty")
    return answer, tokens


def _failed(name: str, why: str) -> QuantkitError:
    return VerificationError(
        f"{name} was created in Ollama, but the chat failed: {why}",
        hint=f"check the server's log; remove the model with: {shown('ollama', 'rm', name)}",
    )
