"""A Hugging Face folder: its config, where every tensor is stored, and a way to read rows of a tensor.

Opening reads only the JSON files and the headers of the shards, and for quantized weights the settings and tensors that
say how they are quantized. Every defect that can be found without reading weights is found here, and is named: a
missing or truncated shard, a tensor that is in the index but in no shard, a tensor that two shards have, an index that
points outside of the folder.

A checkpoint whose weights are quantized in a format of :mod:`quantkit.checkpoint.dequantize` is seen as the dequantized
weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from quantkit.checkpoint.dequantize.logical import logical_checkpoint, quantization_settings
from quantkit.checkpoint.dequantize.stored import Stored, StoredBlocks
from quantkit.checkpoint.dtypes import FLOATS, Array
from quantkit.checkpoint.ignored import NOTHING, Ignored
from quantkit.checkpoint.open_file import open_tensor_file
from quantkit.checkpoint.other_formats import refuse_file, refuse_format, refuse_missing
from quantkit.checkpoint.tensor_file import Memory, TensorFile, TensorSpec, new_memory
from quantkit.checkpoint.ungathered import refuse_ungathered
from quantkit.checkpoint.weight_sets import BUFFERS, weight_map, weight_sets
from quantkit.errors import CheckpointError
from quantkit.files.json_file import read_json
from quantkit.hub.base_name import build_hint


@dataclass(frozen=True)
class Checkpoint:
    """An open checkpoint; also a context manager that closes its files.

    Attributes:
        path: the folder.
        config: ``config.json`` without the settings of a quantization.
        tensors: by name, where each tensor is stored.
        files: the files that contain the tensors.
        formats: by name of a tensor that is stored quantized, its format. Such a tensor counts as F32.
        blocks: by name of such a tensor, its blocks, where they are those of a ggml type.
        remarks: notes for the user about its settings and the names of the tensors.
    """

    path: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorSpec]
    files: Mapping[Path, TensorFile]
    formats: Mapping[str, str] = field(default_factory=dict)
    blocks: Mapping[str, StoredBlocks] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    def read(self, name: str, start: int = 0, stop: int | None = None, memory: Memory = new_memory) -> Array:
        """Rows ``start:stop`` (see :class:`TensorFile`), of type ``tensors[name].dtype``, on the CPU.

        Safe from any thread.
        """
        spec = self.tensors[name]
        return self.files[spec.file].read(spec.name, start, stop, memory)

    def with_alias(self, alias: str, name: str) -> Checkpoint:
        """The same checkpoint with *alias* as a second name of tensor *name* (for a tied output head)."""
        return replace(self, tensors={**self.tensors, alias: self.tensors[name]})

    def json(self, name: str) -> dict[str, Any]:
        """A JSON file of the folder; empty if there is none."""
        return read_json(self.path / name) if (self.path / name).is_file() else {}

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors in the files."""
        return sum(spec.nbytes for spec in self.tensors.values())

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user about the names of the tensors and the weights that are always dequantized."""
        return self.remarks + tuple(
            f"{self.path.name} is quantized: {count} tensors in {kind} are dequantized to f32"
            for kind, count in Counter(kind for name, kind in self.formats.items() if name not in self.blocks).items()
        )

    def stored_blocks(self, name: str) -> StoredBlocks | None:
        """The blocks of a tensor that need not be decoded; None if it is stored otherwise."""
        return self.blocks.get(self.tensors[name].name) if name in self.tensors else None

    def close(self) -> None:
        for file in self.files.values():
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def require_folder(path: Path) -> None:
    """Refuse what is no folder of a model.

    Raises:
        CheckpointError: saying what it is, and what to give instead.
    """
    if path.is_file():
        raise refuse_file(path)
    if not path.is_dir():
        raise refuse_missing(path)
    if not (path / "config.json").is_file():
        if (path / "adapter_config.json").is_file():
            hint = build_hint(path, read_json(path / "adapter_config.json"))
            raise CheckpointError(f"{path}: this is an adapter, not a model", hint=hint)
        raise refuse_format(path, "config.json is missing", "give the folder of a Hugging Face model")


def open_checkpoint(path: Path, ignored: Ignored = NOTHING) -> Checkpoint:
    """Open a checkpoint folder by its headers.

    Args:
        path: the folder.
        ignored: weight files and indexes that are treated as if they were not there.

    Raises:
        CheckpointError: naming the file and the tensor that is wrong.
    """
    require_folder(path)
    config = read_json(path / "config.json")
    settings = quantization_settings(path, config)
    opened: dict[Path, TensorFile] = {}
    try:
        files, index = _weight_files(path, ignored)
        for file in files:
            opened[file] = open_tensor_file(file)
        stored = Stored(path, config, settings, _collect(path, opened, index), opened)
        refuse_ungathered(stored.tensors.values(), path)
        logical = logical_checkpoint(stored)
        _check_types(logical.tensors)
    except BaseException:
        for done in opened.values():
            done.close()
        raise
    return Checkpoint(
        path, logical.config, logical.tensors, logical.files, logical.formats, logical.blocks, logical.notes
    )


def _weight_files(path: Path, ignored: Ignored) -> tuple[list[Path], Path | None]:
    """The files that contain the weights, and the index that lists them if it was used."""
    sets = weight_sets(path, ignored)
    if not sets:
        raise refuse_format(
            path,
            "no weights (model.safetensors, model-*.safetensors or pytorch_model.bin)",
            "download the model's weight files into this folder",
        )
    used = sets[0]
    if used.missing and used.index is None:
        raise CheckpointError(f"{path / used.missing[0]}: shard is missing", hint="download the missing shard")
    return list(used.files), used.index


def _collect(path: Path, files: Mapping[Path, TensorFile], index: Path | None) -> dict[str, TensorSpec]:
    tensors: dict[str, TensorSpec] = {}
    for file, opened in files.items():
        for name, spec in opened.specs.items():
            if name.endswith(BUFFERS):
                continue
            if name in tensors:
                raise CheckpointError(f"{file}: tensor {name!r} is also in {tensors[name].file.name}")
            tensors[name] = spec
    if index is not None:
        _match_index(path, index, tensors)
    return tensors


def _check_types(tensors: Mapping[str, TensorSpec]) -> None:
    for name, spec in tensors.items():
        if spec.dtype not in FLOATS:
            raise CheckpointError(
                f"{spec.file}: tensor {name!r} is stored as {spec.dtype}; supported are {', '.join(FLOATS)}",
                hint="give the bf16, f16 or f32 checkpoint",
            )


def _match_index(path: Path, index: Path, tensors: Mapping[str, TensorSpec]) -> None:
    listed = weight_map(index)
    for name, shard in listed.items():
        if name not in tensors and not name.endswith(BUFFERS):
            raise CheckpointError(
                f"{path / shard}: tensor {name!r} is missing, but {index.name} lists it",
                hint="download the shard again",
            )
    for name, spec in tensors.items():
        if name not in listed:
            raise CheckpointError(f"{spec.file}: tensor {name!r} is not in {index.name}")
