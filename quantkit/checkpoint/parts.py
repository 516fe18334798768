"""Tensors that are stored within another tensor, such as the experts of a layer that were saved as one stack."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from quantkit.checkpoint.dtypes import Array
from quantkit.checkpoint.folder import Checkpoint
from quantkit.checkpoint.tensor_file import Memory, TensorFile, TensorSpec, new_memory


@dataclass(frozen=True)
class Part:
    """Consecutive rows of a stored tensor, or the transpose of some columns of such rows.

    Attributes:
        stored: the name under which the checkpoint has the tensor.
        start: the first row; with three dimensions, the rows are those of all matrices in order.
        shape: of the part; if it is not transposed, its columns are those of the stored tensor.
        column: the first column that becomes a row of the part; None if it is not transposed.
    """

    stored: str
    start: int
    shape: tuple[int, ...]
    column: int | None = None

    @property
    def rows(self) -> int:
        return self.shape[0]


class PartFile:
    """A file in which parts of tensors have names of their own; every other tensor is as in the file.

    Args:
        file: what the parts are read from.
        parts: by name of a part, where it is; ``stored`` is the tensor's name in the file.
        specs: by name, the parts' specs.
    """

    def __init__(self, file: TensorFile, parts: Mapping[str, Part], specs: Mapping[str, TensorSpec]) -> None:
        self._file, self._parts = file, parts
        self.specs: Mapping[str, TensorSpec] = {**file.specs, **specs}

    def read(self, name: str, start: int = 0, stop: int | None = None, memory: Memory = new_memory) -> Array:
        if name not in self._parts:
            return self._file.read(name, start, stop, memory)
        part = self._parts[name]
        stop = part.rows if stop is None else stop
        if part.column is None:
            return self._file.read(part.stored, part.start + start, part.start + stop, memory)
        matrix = self._file.read(part.stored, part.start, part.start + part.shape[1])
        return np.ascontiguousarray(matrix[:, part.column + start : part.column + stop].T)

    def close(self) -> None:
        self._file.close()


def with_parts(checkpoint: Checkpoint, parts: Mapping[str, Part]) -> Checkpoint:
    """The checkpoint with *parts*, by name, in the place of the tensors that they are parts of.

    Args:
        checkpoint: it has every tensor that a part names, with what the part has of it.
        parts: by the name of the new tensor.
    """
    by_file: dict[Path, dict[str, Part]] = {}
    specs: dict[Path, dict[str, TensorSpec]] = {}
    made: dict[str, dict[str, TensorSpec]] = {}  # by stored name
    for name, part in parts.items():
        whole = checkpoint.tensors[part.stored]
        row = whole.nbytes // max(1, math.prod(whole.shape[:-1]))
        rows = part.rows if part.column is None else part.shape[1]
        columns = "" if part.column is None else f", {part.column}:{part.column + part.rows}"
        inside = f"{whole.name}[{part.start}:{part.start + rows}{columns}]"
        size = math.prod(part.shape) * (whole.nbytes // max(1, math.prod(whole.shape)))
        spec = replace(whole, name=inside, shape=part.shape, offset=whole.offset + part.start * row, nbytes=size)
        by_file.setdefault(whole.file, {})[inside] = replace(part, stored=whole.name)
        specs.setdefault(whole.file, {})[inside] = spec
        made.setdefault(part.stored, {})[name] = spec
    tensors: dict[str, TensorSpec] = {}
    for name, spec in checkpoint.tensors.items():
        tensors.update(made.get(name, {name: spec}))
    files = {
        path: PartFile(file, by_file[path], specs[path]) if path in by_file else file
        for path, file in checkpoint.files.items()
    }
    return replace(checkpoint, tensors=tensors, files=files)
