"""Entries of manifest.json made from plans, files and specs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from quantkit.files.visible import visible
from quantkit.hub.source import Source, hub_origin, source_name
from quantkit.package.manifest_answers import answers_entry
from quantkit.package.manifest_chat import ChatEntry
from quantkit.package.manifest_entries import (
    AdapterEntry,
    ModelEntry,
    ProjectorEntry,
    TensorEntry,
    TextEntry,
)
from quantkit.package.manifest_modelfile import ModelfileEntry, text_sha256
from quantkit.package.manifest_sources import InputEntry, SourceEntry
from quantkit.package.ollama_modelfile import license_values
from quantkit.package.spec import PackageSpec

if TYPE_CHECKING:
    from quantkit.checkpoint.tensor_file import TensorSpec
    from quantkit.model.lora_file import AdapterFile
    from quantkit.model.projector_file import ProjectorFile
    from quantkit.plan.values import Output

_LIBRARIES = ("torch", "numpy", "llama-cpp-python")


def model_entry(outputs: Sequence[Output], digests: Mapping[str, Mapping[str, str]]) -> ModelEntry:
    """One model that was built.

    Args:
        outputs: the file, or the parts of a split model.
        digests: by file, by tensor: sha256.
    """
    return ModelEntry(
        file=outputs[0].file,
        parts=tuple(output.file for output in outputs) if len(outputs) > 1 else (),
        quant=outputs[0].label,
        size=sum(output.nbytes for output in outputs),
        headers={output.file: _header_sum(output) for output in outputs},
        tensors={name: tensor for output in outputs for name, tensor in _tensors(output, digests[output.file]).items()},
    )


def adapter_entry(file: AdapterFile, digests: Mapping[str, str]) -> AdapterEntry:
    """One adapter by itself that was built.

    Args:
        file: the planned file.
        digests: by tensor: sha256.
    """
    return AdapterEntry(
        file=file.output.file,
        adapter=file.label,
        alpha=file.alpha,
        size=file.output.nbytes,
        headers={file.output.file: _header_sum(file.output)},
        tensors=_tensors(file.output, digests),
    )


def projector_entry(file: ProjectorFile, digests: Mapping[str, str]) -> ProjectorEntry:
    """The part that sees that was built; arguments as of :func:`adapter_entry`."""
    return ProjectorEntry(
        file=file.output.file,
        projector=file.projector,
        size=file.output.nbytes,
        headers={file.output.file: _header_sum(file.output)},
        tensors=_tensors(file.output, digests),
    )


def _header_sum(output: Output) -> str:
    return hashlib.sha256(output.header).hexdigest()


def _tensors(output: Output, digests: Mapping[str, str]) -> dict[str, TensorEntry]:
    return {name: TensorEntry(slot.type.label, digests[name], slot.reason) for name, slot in output.tensors.items()}


def source_entry(source: Source, folder: Path) -> SourceEntry:
    """Where a model or an adapter came from: id and resolved revision, or the folder's name.

    Args:
        source: as asked.
        folder: where it is now.
    """
    origin = hub_origin(folder) or hub_origin(source)
    if origin is None:
        return SourceEntry(folder=source_name(source))
    return SourceEntry(hub=origin.hub, id=origin.repo, revision=origin.revision)


def input_files(specs: Iterable[TensorSpec]) -> tuple[InputEntry, ...]:
    """The weight files that were read, with their sizes."""
    return _inputs({spec.file for spec in specs})


def weight_files(folder: Path) -> tuple[InputEntry, ...]:
    """The weight files of a folder that was read by another program."""
    return _inputs(file for suffix in (".safetensors", ".bin") for file in visible(folder, f"*{suffix}"))


def _inputs(files: Iterable[Path]) -> tuple[InputEntry, ...]:
    return tuple(InputEntry(file.name, file.stat().st_size) for file in sorted(files))


def text_entries(files: Sequence[Path]) -> tuple[TextEntry, ...]:
    """The package's text files."""
    return tuple(
        TextEntry(file.name, len(data), hashlib.sha256(data).hexdigest())
        for file in files
        for data in (file.read_bytes(),)
    )


def chat_entry(spec: PackageSpec, jinja: str) -> ChatEntry:
    """How to talk to the model, whose files have the chat template *jinja*."""
    return ChatEntry(
        template=spec.chat.name,
        system=spec.system,
        parameters=settings_of(spec.parameters),
        stops=tuple(spec.chat.stops),
        messages=tuple({"role": role, "content": text} for role, text in spec.messages),
        answers=answers_entry(spec.answers),
        template_sha256=text_sha256(jinja),
    )


def modelfile_entry(spec: PackageSpec) -> ModelfileEntry:
    """What only the Modelfiles say."""
    return ModelfileEntry(
        licenses=tuple(text_sha256(text) for text in license_values(spec)),
        template_sha256="" if spec.own_template is None else text_sha256(spec.own_template),
        requires=spec.requires or "",
    )


def settings_of(parameters: Iterable[tuple[str, str]]) -> dict[str, str | tuple[str, ...]]:
    """Parameters by name: of several values the last, but every ``stop``, as Ollama reads them."""
    settings: dict[str, str | tuple[str, ...]] = {}
    for key, value in parameters:
        settings[key] = (*settings.get(key, ()), value) if key == "stop" else value
    return settings


def versions(libraries: Sequence[str] = ()) -> dict[str, str]:
    """quantkit's version and those of the libraries that decide the bytes.

    Args:
        libraries: those that decide only some models' bytes.
    """
    from importlib.metadata import PackageNotFoundError, version

    from quantkit import __version__

    found = {"quantkit": __version__}
    for library in (*_LIBRARIES, *libraries):
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            found[library] = "unknown"
    return found
