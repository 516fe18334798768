"""The GGUF files that a package is made of, checked for being one model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantkit.errors import GGUFError, OutputError
from quantkit.gguf.header import Header
from quantkit.gguf.layout import layout_faults
from quantkit.gguf.lora import Lora, ScaledLora, check_fits, read_lora
from quantkit.gguf.model import GGUFModel, read_model, read_whole_model
from quantkit.gguf.vectors import narrow_vectors
from quantkit.package.file_names import named_twice
from quantkit.system.shell import command


@dataclass(frozen=True)
class PackageParts:
    """The files of a package that are not written by it.

    Attributes:
        models: by the path that was given, one model in several types; the first is the default.
        loras: LoRA files that they are run with, unmerged.
        projector: what the models see with, or None.
    """

    models: Mapping[Path, GGUFModel]
    loras: tuple[Lora, ...]
    projector: GGUFModel | None

    @property
    def first(self) -> tuple[Path, Header]:
        """The default model."""
        return next((path, model.header) for path, model in self.models.items())

    @property
    def inputs(self) -> list[Path]:
        """All files."""
        return [
            *(file for model in self.models.values() for file in model.files),
            *(lora.model.path for lora in self.loras),
            *([] if self.projector is None else [self.projector.path]),
        ]

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        seeing = [] if self.projector is None else [self.projector]
        return sum(model.nbytes for model in (*self.models.values(), *(lora.model for lora in self.loras), *seeing))


def read_parts(files: Sequence[Path], loras: Sequence[ScaledLora], projector: Path | None) -> PackageParts:
    """Read the headers of a package's files.

    Args:
        files: the models, of a split one the first part.
        loras: LoRA files for each of them.
        projector: the mmproj file, or None.

    Raises:
        GGUFError: a file is damaged, llama.cpp would abort at it, or it is of another model than the first.
        OutputError: two files have the same name.
    """
    models = {path: read_whole_model(path) for path in files}
    for path, model in models.items():
        _check_vectors(path, model.header)
        _check_layout(model)
    _check_one_model({path: model.header for path, model in models.items()})
    beside = tuple(read_lora(lora) for lora in loras)
    for lora in beside:
        for model in models.values():
            check_fits(lora, model)
    parts = PackageParts(models, beside, None if projector is None else read_model(projector))
    _check_names(parts.inputs)
    return parts


def _check_one_model(headers: Mapping[Path, Header]) -> None:
    """Check that all files are the same model: other types, but the same tensors and tokens."""

    def shapes(header: Header) -> dict[str, tuple[int, ...]]:
        return {name: info.shape for name, info in header.tensors.items()}

    aspects: dict[str, Callable[[Header], Any]] = {
        "architecture": lambda header: header.value("general.architecture"),
        "vocabulary": lambda header: header.value("tokenizer.ggml.tokens"),
        "chat template": lambda header: header.value("tokenizer.chat_template"),
        "list of tensors": shapes,
    }
    first, *others = headers
    for path in others:
        for what, aspect in aspects.items():
            if aspect(headers[path]) != aspect(headers[first]):
                raise GGUFError(
                    f"{path}: its {what} differs from that of {first}: a package contains one model in several types",
                    hint="make a separate package for each model",
                )


def _check_names(files: Sequence[Path]) -> None:
    if twice := named_twice(file.name for file in files):
        raise OutputError(f"{twice}: two of the GGUF files have the same name", hint="rename one of them")


def _check_vectors(path: Path, header: Header) -> None:
    """Refuse norms and biases with which llama.cpp aborts."""
    if narrow := narrow_vectors(header.tensors.values()):
        raise GGUFError(
            f"{path}: tensor {narrow}, and llama.cpp and Ollama abort unless they are f32",
            hint=f"write them as f32: {command('quantkit', 'quantize', path, '-o', 'OUT.gguf', '--quant', 'TYPE')}",
        )


def _check_layout(model: GGUFModel) -> None:
    """Refuse a file that hides bytes, which ``verify`` would refuse."""
    for path, header in zip(model.files, model.headers, strict=True):
        if fault := next(layout_faults(path, header), None):
            again = command("quantkit", "quantize", path, "-o", "OUT.gguf", "--quant", "TYPE")
            raise GGUFError(f"{path}: {fault}", hint=f"write the file again: {again}")
