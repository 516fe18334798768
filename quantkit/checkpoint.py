"""A Hugging Face folder: its config, where every tensor is, and a way to read rows of one.

Opening reads the JSON files and the headers of the shards, nothing else. All that can be wrong with a folder without
looking at a weight is found here, by name: a missing or truncated shard, a tensor the index promises and no shard
has, one that two shards have, a quantized checkpoint, an index that points out of the folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch

from quantkit.errors import CheckpointError
from quantkit.tensor_file import DTYPES, TensorFile, TensorSpec, open_tensor_file

_DIGITS = "[0-9]" * 5
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.(safetensors|bin)")
# Buffers of old versions of transformers: derived from the config, never weights.
_BUFFERS = (".rotary_emb.inv_freq", ".attention.masked_bias", ".attention.bias")


@dataclass(frozen=True)
class Checkpoint:
    """An open checkpoint; also a context manager that closes its files.

    Attributes:
        path: the folder.
        config: ``config.json``.
        tensors: by name, where each tensor is stored.
    """

    path: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorSpec]
    files: Mapping[Path, TensorFile]

    def read(self, name: str, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """Rows ``start:stop`` (see :class:`TensorFile`), in the stored type, on the CPU. Safe from any thread."""
        spec = self.tensors[name]
        return self.files[spec.file].read(spec.name, start, stop)

    def with_alias(self, alias: str, name: str) -> Checkpoint:
        """The same checkpoint with tensor *name* also known as *alias* (a tied head that must part)."""
        return replace(self, tensors={**self.tensors, alias: self.tensors[name]})

    def json(self, name: str) -> dict[str, Any]:
        """A JSON file of the folder; empty when there is none."""
        return read_json(self.path / name) if (self.path / name).is_file() else {}

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(spec.nbytes for spec in self.tensors.values())

    def close(self) -> None:
        for file in self.files.values():
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a checkpoint folder by its headers.

    Raises:
        CheckpointError: naming the file and the tensor that is wrong.
    """
    if not path.is_dir():
        raise CheckpointError(
            f"{path}: no such folder", hint="give the folder that holds config.json and the .safetensors files"
        )
    if not (path / "config.json").is_file():
        if (path / "adapter_config.json").is_file():
            raise CheckpointError(
                f"{path}: this is an adapter, not a model", hint=f"quantkit build BASE_MODEL --adapter {path}"
            )
        raise CheckpointError(f"{path}: config.json is missing", hint="give the folder of a Hugging Face model")
    config = read_json(path / "config.json")
    _refuse_quantized(path, config)
    opened: dict[Path, TensorFile] = {}
    try:
        files, index = _weight_files(path)
        for file in files:
            opened[file] = open_tensor_file(file)
        tensors = _collect(path, opened, index)
    except BaseException:
        for done in opened.values():
            done.close()
        raise
    return Checkpoint(path, config, tensors, opened)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from *path*.

    Raises:
        CheckpointError: not readable, not UTF-8 JSON, or not an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: file is missing", hint="download the folder again") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not valid JSON ({error})", hint="download the file again") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found a {type(value).__name__}")
    return value


def _refuse_quantized(path: Path, config: Mapping[str, Any]) -> None:
    quantization = config.get("quantization_config")
    if not quantization:
        return
    method = quantization.get("quant_method", "unknown") if isinstance(quantization, Mapping) else "unknown"
    raise CheckpointError(
        f"{path}: the weights are already quantized ({method}); a merge needs the full-precision model",
        hint="give the bf16 or f16 checkpoint that this one was made from",
    )


def _weight_files(path: Path) -> tuple[list[Path], Path | None]:
    """The files that hold the weights, and the index that lists them if it was used.

    Safetensors come before pickles, a single file before an index, as in transformers.
    """
    for stem, suffix in (("model", "safetensors"), ("pytorch_model", "bin")):
        single, index = path / f"{stem}.{suffix}", path / f"{stem}.{suffix}.index.json"
        if single.is_file():
            return [single], None
        if index.is_file():
            return [path / name for name in dict.fromkeys(_weight_map(index).values())], index
        if shards := sorted(path.glob(f"{stem}-{_DIGITS}-of-{_DIGITS}.{suffix}")):
            return _complete(shards), None
    raise CheckpointError(
        f"{path}: no weights (model.safetensors, model-*.safetensors or pytorch_model.bin)",
        hint="download the model's weight files into this folder",
    )


def _weight_map(index: Path) -> dict[str, str]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index}: has no weight_map", hint="download the file again")
    for tensor, name in weight_map.items():
        if not isinstance(name, str) or Path(name).name != name or "\\" in name or name in ("", ".", ".."):
            raise CheckpointError(f"{index}: tensor {tensor!r} points out of the folder: {name!r}")
    return weight_map


def _complete(shards: list[Path]) -> list[Path]:
    match = _SHARD.fullmatch(shards[0].name)
    assert match is not None
    count = int(match["count"])
    have = {shard.name for shard in shards}
    for number in range(1, count + 1):
        name = f"{match['stem']}-{number:05d}-of-{count:05d}{shards[0].suffix}"
        if name not in have:
            raise CheckpointError(f"{shards[0].parent / name}: shard is missing", hint="download the missing shard")
    return shards


def _collect(path: Path, files: Mapping[Path, TensorFile], index: Path | None) -> dict[str, TensorSpec]:
    tensors: dict[str, TensorSpec] = {}
    for file, opened in files.items():
        for name, spec in opened.specs.items():
            if name.endswith(_BUFFERS):
                continue
            if name in tensors:
                raise CheckpointError(f"{file}: tensor {name!r} is also in {tensors[name].file.name}")
            if spec.dtype not in DTYPES:
                raise CheckpointError(
                    f"{file}: tensor {name!r} is stored as {spec.dtype}; supported are {', '.join(DTYPES)}",
                    hint="give the bf16, f16 or f32 checkpoint",
                )
            tensors[name] = spec
    if index is not None:
        _match_index(path, index, tensors)
    return tensors


def _match_index(path: Path, index: Path, tensors: Mapping[str, TensorSpec]) -> None:
    weight_map = _weight_map(index)
    for name, shard in weight_map.items():
        if name not in tensors and not name.endswith(_BUFFERS):
            raise CheckpointError(
                f"{path / shard}: tensor {name!r} is absent, {index.name} promises it", hint="download the shard again"
            )
    for name, spec in tensors.items():
        if name not in weight_map:
            raise CheckpointError(f"{spec.file}: tensor {name!r} is not in {index.name}")
