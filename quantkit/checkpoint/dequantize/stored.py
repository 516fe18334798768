"""Common parts of all formats of quantized weights: the stored tensors, and a file that dequantizes them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from quantkit.checkpoint.dtypes import Array, Floats
from quantkit.checkpoint.tensor_file import Memory, TensorFile, TensorSpec, flat_shape, new_memory
from quantkit.errors import CheckpointError
from quantkit.ggml.types import GGMLType

CONFIG_HINT = "use the config.json that was saved with the weights"
_SAVED = "download the folder again, or use the bf16 or f16 checkpoint that it was made from"

# Returns rows start:stop of a weight, as float32 of shape [stop - start, columns].
ReadRows = Callable[[int, int], Floats]


@dataclass(frozen=True)
class StoredBlocks:
    """A stack of matrices whose blocks are those of a ggml type, so that they need not be decoded.

    Attributes:
        type: the type.
        shape: [matrices, out, in]: the weight has each matrix transposed.
        read: returns rows ``start:stop`` of all matrices in order, uint8 [stop - start, bytes of a row].
    """

    type: GGMLType
    shape: tuple[int, int, int]
    read: Callable[[int, int], npt.NDArray[np.uint8]]


@dataclass(frozen=True)
class Stored:
    """A checkpoint as it is stored, before its tensors are interpreted.

    Attributes:
        path: the folder.
        config: config.json.
        settings: its ``quantization_config``; empty if there is none.
        tensors: by name, where each tensor is.
        files: the files that contain them.
    """

    path: Path
    config: Mapping[str, Any]
    settings: Mapping[str, Any]
    tensors: Mapping[str, TensorSpec]
    files: Mapping[Path, TensorFile]

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Array:
        """Rows of a tensor in its stored type. Safe from any thread."""
        return self.files[self.tensors[name].file].read(name, start, stop)

    def companion(
        self, weight: str, name: str, dtypes: Collection[str], *, shapes: Collection[tuple[int, ...]]
    ) -> TensorSpec:
        """A tensor that is needed to dequantize *weight*.

        Raises:
            CheckpointError: it is missing, or has another type or shape.
        """
        spec = self.tensors.get(name)
        if spec is None:
            raise self.error(weight, f"is quantized, but {name!r} is missing")
        if spec.dtype not in dtypes or spec.shape not in shapes:
            raise self.error(
                weight,
                f"does not fit {name!r}, which is {list(spec.shape)} {spec.dtype}, expected "
                f"{' or '.join(str(list(shape)) for shape in dict.fromkeys(shapes))} {' or '.join(dtypes)}",
            )
        return spec

    def error(self, name: str, what: str, hint: str = _SAVED) -> CheckpointError:
        """An error about tensor *name*, which must be in the checkpoint."""
        return CheckpointError(f"{self.tensors[name].file}: tensor {name!r} {what}", hint=hint)


@dataclass(frozen=True)
class Quantized:
    """One quantized weight.

    Attributes:
        spec: the dequantized weight: logical shape, F32, and its size as stored.
        format: name of the format for messages.
        parts: names of the stored tensors that it consists of, including its own.
        read: reads its rows.
        place: the stored tensor in whose place it stands.
        blocks: the same weights as they are stored, if ggml has such blocks.
    """

    spec: TensorSpec
    format: str
    parts: frozenset[str]
    read: ReadRows
    place: str
    blocks: StoredBlocks | None = None

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def rows(self) -> int:
        return flat_shape(self.spec.shape)[0]


def quantized(
    stored: Stored,
    name: str,
    shape: tuple[int, ...],
    label: str,
    parts: Collection[str],
    read: ReadRows,
    *,
    weight: str | None = None,
    blocks: StoredBlocks | None = None,
) -> Quantized:
    """A :class:`Quantized` of logical *shape*, stored as tensor *name* and the other *parts*.

    Args:
        stored: the checkpoint.
        name: the stored tensor.
        shape: of the weight.
        label: the format.
        parts: names of the other tensors.
        read: reads rows of the weight.
        weight: its name, if not *name*.
        blocks: see :class:`Quantized`.
    """
    parts = frozenset(parts) | {name}
    nbytes = sum(stored.tensors[part].nbytes for part in parts)
    spec = replace(stored.tensors[name], name=weight or name, dtype="F32", shape=shape, nbytes=nbytes)
    return Quantized(spec, label, parts, read, name, blocks)


class DequantizedFile:
    """A file in which some tensors are quantized weights, which are read as float32 rows."""

    def __init__(self, file: TensorFile, weights: Mapping[str, Quantized]) -> None:
        self._file = file
        here = {weight.place: weight for weight in weights.values() if weight.place in file.specs}
        self._weights = {weight.name: weight for weight in here.values()}
        specs = (here[name].spec if name in here else spec for name, spec in file.specs.items())
        self.specs: Mapping[str, TensorSpec] = {spec.name: spec for spec in specs}

    def read(self, name: str, start: int = 0, stop: int | None = None, memory: Memory = new_memory) -> Array:
        weight = self._weights.get(name)
        if weight is None:
            return self._file.read(name, start, stop, memory)
        return weight.read(start, weight.rows if stop is None else stop)

    def close(self) -> None:
        self._file.close()
