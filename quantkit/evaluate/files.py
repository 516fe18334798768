"""Which files are evaluated, and against which one: from headers, before any weight is read."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from quantkit.errors import GGUFError, QuantkitError
from quantkit.ggml.types import FTYPES, UNQUANTIZED
from quantkit.gguf.model import GGUFModel, read_model, read_whole_model
from quantkit.gguf.split import part_path
from quantkit.package.built import RunnablePackage, open_all
from quantkit.package.manifest import MANIFEST, read_manifest
from quantkit.plan.values import count_elements

_TOKENS = "tokenizer.ggml.tokens"
_BITS = re.compile(r"-([0-9]+\.[0-9]+bpw)(?:-[0-9]{5}-of-[0-9]{5})?$")
_NAMES = {number: name for name, number in FTYPES.items()}


@dataclass(frozen=True)
class EvaluatedFile:
    """A file to evaluate.

    Attributes:
        path: the file, or the first part of a split one.
        label: its type, such as ``q4_0``.
        name: its name in the result: the file's, with the folder's where two files have the same.
        folder: the package that it is in, None for a file by itself.
    """

    path: Path
    label: str
    name: str
    folder: Path | None = None

    @property
    def unquantized(self) -> bool:
        """Whether it is an F16, BF16 or F32 file."""
        return self.label in UNQUANTIZED


@dataclass(frozen=True)
class Chosen:
    """The files of an evaluation.

    Attributes:
        reference: what the others are compared with.
        files: the others, in the order in which they are given.
        package: the first of them that has settings: its system prompt and stops are those of all answers.
        notes: how the reference was chosen.
    """

    reference: EvaluatedFile
    files: tuple[EvaluatedFile, ...]
    package: RunnablePackage
    notes: tuple[str, ...] = ()


def choose_files(paths: Sequence[Path], reference: Path | None) -> Chosen:
    """Find the files at *paths* and the one to compare them with.

    Args:
        paths: GGUF files, packages, or other folders with GGUF files.
        reference: a GGUF file; None for the first unquantized one, else the largest.

    Raises:
        QuantkitError: nothing to evaluate, a broken file, or vocabularies that differ.
    """
    found = [file for path in paths for file in files_at(path)]
    folders = [path for path in paths if (path / MANIFEST).is_file()]
    notes: list[str] = []
    if reference is not None:
        chosen = files_at(reference)[0]
    else:
        chosen, how = _reference(found)
        notes.append(f"compared with {chosen.path.name}, {how}; --reference GGUF chooses another")
    files: list[EvaluatedFile] = []
    for file in found:
        if not any(os.path.samefile(file.path, other.path) for other in (chosen, *files)):
            files.append(file)
    if not files:
        alone = "nothing was found beside it to compare it with" if reference is None else "it is the reference itself"
        raise QuantkitError(
            f"{chosen.path}: a file cannot be evaluated against itself, and {alone}",
            hint="give the file it was quantized from: --reference NAME-f16.gguf (quantkit build --keep-f16 keeps it)",
        )
    check_vocabularies(chosen.path, [file.path for file in files])
    package = open_all(folders[0])[0] if folders else RunnablePackage(files[0].path)
    named = _named([chosen, *files])
    return Chosen(named[0], tuple(named[1:]), package, tuple(notes))


def files_at(path: Path) -> list[EvaluatedFile]:
    """The models at a path, in the order of the manifest or of their names.

    Raises:
        QuantkitError: there is none, or one is broken.
    """
    if not path.is_dir():
        if not path.exists():
            raise GGUFError(f"{path}: no such file or folder", hint="give a .gguf file or a folder with some")
        return [EvaluatedFile(path, label_of(read_whole_model(path)), path.name)]
    if (path / MANIFEST).is_file():
        open_all(path)  # names a file that is missing
        manifest = read_manifest(path)
        manifest.require_whole(path, "evaluate")
        entries = manifest.models
        return [EvaluatedFile(path / entry.file, entry.quant, entry.file, path) for entry in entries]
    files = []
    for file in sorted(path.glob("*.gguf")):
        first = part_path(file, 0)
        if first in (None, file):
            model = read_model(file)
            if model.value("general.type", "model") == "model":
                files.append(EvaluatedFile(file, label_of(model), file.name, path))
    if not files:
        raise QuantkitError(f"{path}: no GGUF file in this folder", hint="give a folder made by quantkit build")
    return files


def label_of(model: GGUFModel) -> str:
    """The type of a file: its bits per weight if its name ends with them (``-4.60bpw``), else what its header says.

    A header that says nothing gives the type of most weights.
    """
    if chosen := _BITS.search(model.path.stem):
        return chosen[1]
    number = model.value("general.file_type")
    name = _NAMES.get(number) if isinstance(number, int) else None
    if name is not None:
        return name
    weights: Counter[str] = Counter()
    for info in model.header.tensors.values():
        weights[info.type.label.lower()] += count_elements(info.shape)
    return max(weights, key=weights.__getitem__, default="unknown")


def bits_per_weight(model: GGUFModel) -> float:
    """Bits of the file for each weight in it."""
    weights = sum(count_elements(info.shape) for info in model.header.tensors.values())
    return 8 * model.nbytes / weights


def check_vocabularies(reference: Path, files: Sequence[Path]) -> None:
    """Refuse files whose tokens are not the reference's.

    Raises:
        QuantkitError: naming the file.
    """
    tokens = read_whole_model(reference).value(_TOKENS)
    for file in files:
        own = read_whole_model(file).value(_TOKENS)
        if own != tokens:
            counts = [len(one) if isinstance(one, list | tuple) else 0 for one in (own, tokens)]
            differ = f"{counts[0]} tokens, not {counts[1]}" if counts[0] != counts[1] else "other tokens"
            raise QuantkitError(
                f"{file}: its vocabulary is not that of {reference} ({differ}), so they cannot be compared",
                hint="leave it out, or pass --reference with a file of the same model",
            )


def _reference(found: Sequence[EvaluatedFile]) -> tuple[EvaluatedFile, str]:
    unquantized = next((file for file in found if file.unquantized), None)
    if unquantized is not None:
        return unquantized, "the unquantized file"
    for file in found:
        if beside := _beside(file):
            return beside, "the unquantized file beside"
    sizes = [read_whole_model(file.path).nbytes for file in found]
    return found[sizes.index(max(sizes))], "the largest, because there is no unquantized file"


def _beside(file: EvaluatedFile) -> EvaluatedFile | None:
    """``NAME-f16.gguf`` beside ``NAME-q4_0.gguf``."""
    stem = file.path.stem
    start = stem.lower().rfind(f"-{file.label}")
    if start < 0:
        return None
    for label in UNQUANTIZED:
        path = file.path.with_name(f"{stem[:start]}-{label}.gguf")
        if path.is_file() and path != file.path:
            return EvaluatedFile(path, label_of(read_whole_model(path)), path.name)
    return None


def _named(files: Sequence[EvaluatedFile]) -> list[EvaluatedFile]:
    names = [file.path.name for file in files]
    return [
        EvaluatedFile(file.path, file.label, name if names.count(name) == 1 else f"{_folder(file)}/{name}", file.folder)
        for file, name in zip(files, names, strict=True)
    ]


def _folder(file: EvaluatedFile) -> str:
    return file.path.resolve().parent.name
