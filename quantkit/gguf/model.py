"""A GGUF model: one file, or the parts of a split model, of which the user gives the first.

llama.cpp finds the other parts by their names and stops at the first wrong one. Here all parts are checked first, so
the error names a part that is missing or belongs to another model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from quantkit.errors import GGUFError
from quantkit.files.in_place import finish_change
from quantkit.gguf.header import Header, read_header
from quantkit.gguf.split import SPLIT_COUNT, SPLIT_KEYS, SPLIT_NO, SPLIT_TENSORS, named_count, part_path
from quantkit.system.shell import command

_AGAIN = "download or build all parts again"


@dataclass(frozen=True)
class GGUFModel:
    """A model, read from its headers.

    Attributes:
        files: the file, or all parts in order.
        headers: the header of each file.
        header: header of the whole model: the first file's metadata without the split keys, the tensors of all files.
            Offsets are within each tensor's own file.
    """

    files: tuple[Path, ...]
    headers: tuple[Header, ...]
    header: Header

    @property
    def path(self) -> Path:
        """The file to give to llama.cpp."""
        return self.files[0]

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return sum(file.stat().st_size for file in self.files)

    def value(self, key: str, default: Any = None) -> Any:
        """A metadata value."""
        return self.header.value(key, default)

    def locate(self, name: str) -> tuple[int, int]:
        """The location of a tensor: the number of its file, and the offset of its first byte there."""
        for number, header in enumerate(self.headers):
            if name in header.tensors:
                return number, header.data_offset + header.tensors[name].offset
        raise KeyError(name)


def read_model(path: Path) -> GGUFModel:
    """Read the headers of a model. An edit of it that was killed in the middle is finished before.

    Raises:
        OutputError: that edit cannot be finished.
        GGUFError: as :func:`read_header`; or a later part is given; or a part is missing, damaged or of another model.
    """
    finish_change(path)
    first = read_header(path)
    count = _integer(path, first, SPLIT_COUNT, 1)
    if count <= 1:
        return GGUFModel((path,), (first,), _without_split(first))
    files = _files(path, first, count)
    headers = (first, *(_read_part(file, number, count) for number, file in enumerate(files[1:], 1)))
    tensors = dict(first.tensors)
    for file, header in zip(files[1:], headers[1:], strict=True):
        if twice := tensors.keys() & header.tensors.keys():
            raise GGUFError(f"{file}: tensor {min(twice)!r} is also in an earlier part", hint=_AGAIN)
        tensors |= header.tensors
    for file, header in zip(files, headers, strict=True):
        promised = _integer(file, header, SPLIT_TENSORS, -1)
        if promised != len(tensors):
            raise GGUFError(
                f"{file}: {SPLIT_TENSORS} is {promised}, but the {count} parts have {len(tensors)} tensors",
                hint=f"the parts belong to different models: {_AGAIN}",
            )
    return GGUFModel(files, headers, replace(_without_split(first), tensors=tensors))


def read_whole_model(path: Path) -> GGUFModel:
    """As :func:`read_model`, for a model that can run without another file.

    Raises:
        GGUFError: as :func:`read_model`; or the file is an adapter's LoRA file, an importance matrix, or an encoder of
            images.
    """
    model = read_model(path)
    kind = model.value("general.type")
    if kind == "imatrix":
        raise GGUFError(
            f"{path}: this is an importance matrix, not a model",
            hint=f"build with it: {command('quantkit', 'build', 'MODEL', '--imatrix', path, '--quant', 'q4_k_m')}",
        )
    if kind == "mmproj":
        raise GGUFError(
            f"{path}: this is an encoder of images or sound, not a model",
            hint="give the file of the language model that it belongs to",
        )
    if kind == "adapter":
        raise GGUFError(
            f"{path}: this is an adapter's LoRA file, not a model",
            hint=f"use it with its base model: {command('llama-cli', '-m', 'BASE.gguf', '--lora', path)}; or merge it: "
            f"{command('quantkit', 'merge', 'BASE.gguf', '--lora', path, '-o', 'OUT.gguf')}",
        )
    return model


def _files(path: Path, first: Header, count: int) -> tuple[Path, ...]:
    number = _integer(path, first, SPLIT_NO, -1)
    beginning = part_path(path, 0)
    if beginning is None or named_count(path) != count or part_path(path, number) != path:
        raise GGUFError(
            f"{path}: this is part {number + 1} of {count} of a split model, but its name does not say so",
            hint=f"llama.cpp finds the parts by their names: NAME-{number + 1:05d}-of-{count:05d}.gguf",
        )
    if number != 0:
        raise GGUFError(
            f"{path}: this is part {number + 1} of {count} of a split model", hint=f"give the first part: {beginning}"
        )
    return tuple(file for n in range(count) if (file := part_path(path, n)) is not None)


def _read_part(path: Path, number: int, count: int) -> Header:
    if not path.is_file():
        raise GGUFError(
            f"{path}: part {number + 1} of {count} of the model is missing", hint="put all parts into one folder"
        )
    header = read_header(path)
    found = _integer(path, header, SPLIT_NO, -1), _integer(path, header, SPLIT_COUNT, -1)
    if found != (number, count):
        raise GGUFError(
            f"{path}: {SPLIT_NO} is {found[0]} and {SPLIT_COUNT} is {found[1]}; expected {number} and {count}",
            hint=_AGAIN,
        )
    return header


def _integer(path: Path, header: Header, key: str, default: int) -> int:
    value = header.value(key, default)
    if not isinstance(value, int) or isinstance(value, bool):
        raise GGUFError(f"{path}: {key} is {value!r}; expected a number", hint=_AGAIN)
    return value


def _without_split(header: Header) -> Header:
    return replace(header, metadata={k: entry for k, entry in header.metadata.items() if k not in SPLIT_KEYS})
