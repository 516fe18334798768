"""Puts GGUF files that exist already into a package, with their entries of the manifest."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from quantkit.errors import GGUFError
from quantkit.files.fileio import blocks, sha256_of
from quantkit.files.output_file import write_error
from quantkit.files.workspace import Workspace
from quantkit.gguf.header import Header, file_type_name
from quantkit.gguf.lora import Lora
from quantkit.gguf.model import GGUFModel, read_model
from quantkit.package.manifest_entries import AdapterEntry, ModelEntry, ProjectorEntry, TensorEntry


def quant_of(header: Header) -> str:
    """The type of a file as packages call it."""
    return file_type_name(header) or "gguf"


def add_model(model: GGUFModel, work: Workspace, advance: Callable[[int], None]) -> ModelEntry:
    """Link or copy the files of one model into the package; returns its manifest entry."""
    headers, tensors = _add_files(model, work, advance)
    return ModelEntry(
        file=model.path.name,
        parts=tuple(file.name for file in model.files) if len(model.files) > 1 else (),
        quant=quant_of(model.header),
        size=model.nbytes,
        headers=headers,
        tensors=tensors,
    )


def add_lora(lora: Lora, work: Workspace, advance: Callable[[int], None]) -> AdapterEntry:
    """The same for a LoRA file that the models are run with."""
    headers, tensors = _add_files(lora.model, work, advance)
    return AdapterEntry(
        file=lora.model.path.name,
        adapter=str(lora.model.value("general.name", lora.model.path.stem)),
        alpha=lora.alpha,
        scale=lora.scale,
        size=lora.model.nbytes,
        headers=headers,
        tensors=tensors,
    )


def split_sources(modelfile: Path, files: Sequence[Path]) -> tuple[Path, Path | None]:
    """The model among the files of a Modelfile's FROM lines, and the projector with which it sees.

    Raises:
        GGUFError: they are not one model and at most one projector.
    """
    sees = [path for path in files if is_projector(read_model(path))]
    models = [path for path in files if path not in sees]
    if len(models) != 1 or len(sees) > 1:
        kinds = ", ".join(f"{path.name} ({'a projector' if path in sees else 'a model'})" for path in files)
        raise GGUFError(
            f"{modelfile}: its FROM lines must name one model and at most one projector, not {kinds}",
            hint=f"name the files: quantkit package FILE.gguf --modelfile {modelfile} -o DIR",
        )
    return models[0], sees[0] if sees else None


def is_projector(model: GGUFModel) -> bool:
    """Whether a file is the part of a model that sees, as llama.cpp's mmproj files are."""
    return bool(model.value("general.architecture", "") == "clip")


def add_projector(model: GGUFModel, work: Workspace, advance: Callable[[int], None]) -> ProjectorEntry:
    """The same for what the models see with.

    Raises:
        GGUFError: the file does not say of which kind it is.
    """
    kinds = [str(entry.value) for key, entry in model.header.metadata.items() if key.endswith("projector_type")]
    if not kinds:
        raise GGUFError(f"{model.path}: has no projector_type", hint="write it again with quantkit build --mmproj")
    headers, tensors = _add_files(model, work, advance)
    return ProjectorEntry(model.path.name, kinds[0], model.nbytes, headers, tensors)


def _add_files(
    model: GGUFModel, work: Workspace, advance: Callable[[int], None]
) -> tuple[dict[str, str], dict[str, TensorEntry]]:
    """Link or copy files into the package, and hash their headers and their tensors."""
    tensors, headers = {}, {}
    for path, header in zip(model.files, model.headers, strict=True):
        _link(path, work)
        headers[path.name] = sha256_of(blocks(path, 0, header.data_offset))
        for info in header.tensors.values():
            data = _whole(path, header.data_offset + info.offset, info.type.nbytes(info.shape), advance)
            tensors[info.name] = TensorEntry(info.type.label, sha256_of(data))
    return headers, tensors


def _whole(path: Path, start: int, size: int, advance: Callable[[int], None]) -> Iterator[bytes]:
    """Yield :func:`quantkit.files.fileio.blocks`, and refuse a file that ends too early."""
    read = 0
    for block in blocks(path, start, size):
        yield block
        read += len(block)
        advance(len(block))
    if read < size:
        raise GGUFError(f"{path}: was truncated while being read", hint="try again when no program is writing to it")


def _link(path: Path, work: Workspace) -> None:
    target = work.path / path.name
    try:
        os.link(path.resolve(), target)
    except OSError:
        try:
            shutil.copyfile(path, target)
        except OSError as error:
            raise write_error(work.final, error) from None
