"""Files that contain tensors: their interface, and safetensors, by header and byte range.

Both kinds have the same interface: the tensors in the file (:class:`TensorSpec`), and the values of a range of rows.
A safetensors file is never loaded: opening it checks its whole header, and rows are read at their offset, from any
thread. (The safetensors library maps whole files, which counts as memory of this process, and its errors do not name
the tensor.)
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from quantkit.checkpoint.dtypes import READABLE, Array
from quantkit.errors import CheckpointError, QuantkitError
from quantkit.files.fileio import read_into

# Bytes per element, for every type that a safetensors header may name: the whole header is checked, including tensors
# that will never be read.
_ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "I16": 2, "U16": 2, "F16": 2, "BF16": 2, "I32": 4, "U32": 4, "F32": 4, "F64": 8, "I64": 8, "U64": 8, "C64": 8,
}  # fmt: skip
_MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors format
# Numbers that are longer can be read, but not always printed; torch's limit for dimensions.
_MOST, _MOST_DIMS = 2**63, 64

DISK_HINT = "check the file's permissions and its disk, or download the file again"

Refusal = Callable[..., QuantkitError]
# Returns memory of at least so many bytes, uint8.
Memory = Callable[[int], npt.NDArray[np.uint8]]


def new_memory(nbytes: int) -> npt.NDArray[np.uint8]:
    """Newly allocated memory."""
    return np.empty(nbytes, dtype=np.uint8)


@dataclass(frozen=True)
class TensorSpec:
    """Where one tensor is stored.

    Attributes:
        name: the name in the file.
        dtype: element type by its safetensors name (``BF16``, ``F16``, ``F32``, ...).
        shape: as in PyTorch, outermost first.
        file: the file that contains it.
        offset: offset of its first byte in the file; 0 for pickles, which have no plain offsets.
        nbytes: its size in the file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    nbytes: int


def flat_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape as a matrix: if it has more than two dimensions, all but the last are combined."""
    return (math.prod(shape[:-1]), shape[-1]) if len(shape) > 2 else shape


class TensorFile(Protocol):
    """An open file of tensors."""

    @property
    def specs(self) -> Mapping[str, TensorSpec]: ...

    def read(self, name: str, start: int = 0, stop: int | None = None, memory: Memory = new_memory) -> Array:
        """Rows ``start:stop`` of tensor *name*, in its stored type, on the CPU.

        With three or more dimensions, the rows are those of all matrices in order: [rows, last dimension]. Values that
        are returned as stored are read into *memory*.
        """

    def close(self) -> None: ...


class SafetensorsFile:
    """A safetensors file: its header is checked, its values are read by range."""

    def __init__(self, path: Path, refuse: Refusal = CheckpointError) -> None:
        self.path = path
        self._refuse = refuse
        self._fd = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        try:
            self.specs: Mapping[str, TensorSpec] = self._read_header()
        except BaseException:
            os.close(self._fd)
            raise

    def _read_header(self) -> dict[str, TensorSpec]:
        size = os.fstat(self._fd).st_size
        again = "download the file again"
        head = bytearray(8)
        if read_into(self._fd, memoryview(head), 0) < 8:
            raise self._refuse(f"{self.path}: not a safetensors file ({size} bytes)", hint=again)
        (length,) = struct.unpack("<Q", head)
        if length > min(size - 8, _MAX_HEADER_BYTES):
            raise self._refuse(
                f"{self.path}: truncated or not a safetensors file (header of {length} bytes, file of {size} bytes)",
                hint=again,
            )
        try:
            raw = bytearray(length)
            read_into(self._fd, memoryview(raw), 8)
            header = json.loads(raw, object_pairs_hook=_unique_keys)
        except _DuplicateKeyError as error:
            raise self._refuse(f"{self.path}: tensor {error.key!r} appears twice in the header", hint=again) from None
        except (ValueError, RecursionError):
            raise self._refuse(f"{self.path}: header is not valid JSON", hint=again) from None
        if not isinstance(header, dict):
            raise self._refuse(f"{self.path}: header is not a JSON object", hint=again)
        header.pop("__metadata__", None)
        base = 8 + length
        specs = {name: self._spec(name, entry, base, size) for name, entry in header.items()}
        end = base
        for spec in sorted(specs.values(), key=lambda spec: (spec.offset, spec.nbytes)):
            if spec.offset < end:
                raise self._refuse(f"{self.path}: tensor {spec.name!r} overlaps the previous tensor", hint=again)
            end = spec.offset + spec.nbytes
        return specs

    def _spec(self, name: str, entry: Any, base: int, size: int) -> TensorSpec:
        try:
            dtype, shape = str(entry["dtype"]), tuple(entry["shape"])
            begin, end = entry["data_offsets"]
            item = _ITEM_BYTES[dtype]
            sound = all(type(n) is int and 0 <= n < _MOST for n in (*shape, begin, end)) and len(shape) <= _MOST_DIMS
        except (KeyError, TypeError, ValueError):
            sound = False
        if not sound:
            raise self._refuse(f"{self.path}: tensor {name!r} has an invalid header entry: {str(entry)[:120]}")
        nbytes = math.prod(shape) * item
        if end - begin != nbytes:
            raise self._refuse(
                f"{self.path}: tensor {name!r} {list(shape)} {dtype} has {end - begin} bytes, expected {nbytes}"
            )
        if base + end > size:
            raise self._refuse(
                f"{self.path}: truncated: tensor {name!r} ends at byte {base + end}, but the file has {size} bytes",
                hint="download the file again",
            )
        return TensorSpec(name, dtype, shape, self.path, base + begin, nbytes)

    def read(self, name: str, start: int = 0, stop: int | None = None, memory: Memory = new_memory) -> Array:
        spec = self.specs[name]
        dtype = READABLE[spec.dtype]
        shape = flat_shape(spec.shape)
        stop = (shape[0] if shape else 1) if stop is None else stop
        row = spec.nbytes // max(1, shape[0]) if shape else spec.nbytes
        raw = memory((stop - start) * row)
        view = raw.data
        try:
            got = read_into(self._fd, view, spec.offset + start * row)
        except OSError as error:
            raise self._refuse(f"{self.path}: cannot be read ({error.strerror or error})", hint=DISK_HINT) from None
        if got != len(view):
            raise self._refuse(f"{self.path}: the file was truncated while it was read")
        values = raw.view(dtype)
        return values.reshape(stop - start, *shape[1:]) if shape else values.reshape(())

    def close(self) -> None:
        os.close(self._fd)


class _DuplicateKeyError(ValueError):
    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise _DuplicateKeyError(key)
        result[key] = value
    return result


# Rows compared at a time.
_COMPARED = 4096


def same_values(file: TensorFile, one: str, other: str) -> bool:
    """Whether two tensors of a file are equal in type, shape and every bit; read in ranges of rows."""
    if (file.specs[one].dtype, file.specs[one].shape) != (file.specs[other].dtype, file.specs[other].shape):
        return False
    shape = flat_shape(file.specs[one].shape)
    rows = shape[0] if shape else 1
    spans = ((start, min(start + _COMPARED, rows)) for start in range(0, rows, _COMPARED))
    return all(file.read(one, *span).tobytes() == file.read(other, *span).tobytes() for span in spans)
