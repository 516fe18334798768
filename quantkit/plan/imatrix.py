"""Importance matrices (imatrix): how much each column of a tensor matters, measured by llama-imatrix on real text.

Both file formats of llama.cpp are read, with the arithmetic of ``llama-quantize``: GGUF (sums of squares divided by
counts) and the older .dat (sums divided by the number of calls).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from quantkit.errors import GGUFError, QuantizationError
from quantkit.ggml.types import GGMLType
from quantkit.gguf.header import MAGIC, Header, read_header
from quantkit.plan.values import PlannedTensor

_AGAIN = "make it again: quantkit imatrix MODEL -o FILE"
SUMS, COUNTS = ".in_sum2", ".counts"
"""What the names of a tensor's sums and counts end with."""


def read_imatrix(path: Path) -> Mapping[str, npt.NDArray[np.float32]]:
    """Importances by GGUF tensor name: float32, one per column.

    Raises:
        QuantizationError: the file is not an importance matrix, is truncated, or has values that are not finite.
    """
    try:
        with path.open("rb") as file:
            legacy = file.read(4) != MAGIC
            file.seek(0)
            entries = _read_legacy(path, file) if legacy else _read_gguf(path, read_header(path), file)
    except OSError as error:
        raise QuantizationError(f"{path}: cannot be read ({error.strerror or error})", hint=_AGAIN) from None
    except GGUFError as error:
        raise QuantizationError(str(error), hint=_AGAIN) from None
    for name, values in entries.items():
        if not np.isfinite(values).all():
            raise QuantizationError(f"{path}: {name!r} has NaN or infinite importances", hint=_AGAIN)
    return entries


def not_evaluated(tensors: Iterable[PlannedTensor]) -> tuple[str, ...]:
    """What the names of layers for multi-token prediction start with: a text is evaluated without them."""
    return tuple({f"{tensor.name.partition('.nextn.')[0]}." for tensor in tensors if ".nextn." in tensor.name})


def expected_importance(tensors: Sequence[PlannedTensor]) -> Mapping[str, npt.NDArray[np.float32]]:
    """Equal importances for the tensors that a matrix of this model will have, to plan with before it is computed.

    Those are the factors of products in the layers; the embedding and the output layer have none.
    """
    without = not_evaluated(tensors)
    return {
        tensor.name: np.broadcast_to(np.float32(1), (math.prod(tensor.shape[:-2]) * tensor.shape[-1],))
        for tensor in tensors
        if tensor.name.startswith("blk.") and tensor.name.endswith(".weight") and len(tensor.shape) > 1
        if not tensor.name.startswith(without)
    }


def _read_gguf(path: Path, header: Header, file: BinaryIO) -> dict[str, npt.NDArray[np.float32]]:
    entries = {}
    for name, table, counts in read_tables(path, header, file):
        # llama.cpp rounds the counts (stored as float32) and gives experts that were never called an importance of 1
        whole = np.round(counts).astype(np.float32)[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            entries[name] = np.where(whole > 0, table / whole, np.float32(1)).astype(np.float32).reshape(-1)
    return entries


def read_tables(
    path: Path, header: Header, file: BinaryIO
) -> Iterator[tuple[str, npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
    """What a GGUF importance matrix stores: each tensor's name, sums [counts, columns] and counts [counts], float32.

    Raises:
        QuantizationError: it is not an importance matrix, has a count that is none, or a tensor's sums and counts do
            not belong together.
    """
    names = [name.removesuffix(SUMS) for name in header.tensors if name.endswith(SUMS)]
    if not names or "imatrix.chunk_count" not in header.metadata:
        raise QuantizationError(f"{path}: not an importance matrix", hint=_AGAIN)
    for name in names:
        if name + COUNTS not in header.tensors:
            raise QuantizationError(f"{path}: {name!r} has sums but no counts", hint=_AGAIN)
        sums, counts = (_floats(path, header, file, name + suffix) for suffix in (SUMS, COUNTS))
        if not ((counts >= 0) & (counts < 2**63)).all():  # NaN is in no range
            raise QuantizationError(f"{path}: {name!r} has counts that are not numbers from 0 up", hint=_AGAIN)
        if sums.size % counts.size:
            raise QuantizationError(
                f"{path}: {name!r} has {sums.size} sums, which is not a multiple of its {counts.size} counts",
                hint=_AGAIN,
            )
        yield name, sums.reshape(counts.size, -1), counts


def _floats(path: Path, header: Header, file: BinaryIO, name: str) -> npt.NDArray[np.float32]:
    info = header.tensors[name]
    if info.type is not GGMLType.F32:
        raise QuantizationError(f"{path}: {name!r} has type {info.type.label}; expected f32", hint=_AGAIN)
    file.seek(header.data_offset + info.offset)
    return np.frombuffer(file.read(4 * math.prod(info.shape)), dtype="<f4")


def _read_legacy(path: Path, file: BinaryIO) -> dict[str, npt.NDArray[np.float32]]:
    size = path.stat().st_size

    def take(count: int) -> bytes:
        if not 0 <= count <= size or len(data := file.read(count)) != count:
            raise QuantizationError(f"{path}: not an importance matrix, or truncated", hint=_AGAIN)
        return data

    def integer() -> int:
        return int(struct.unpack("<i", take(4))[0])

    entries: dict[str, npt.NDArray[np.float32]] = {}
    for _ in range(integer()):
        name = take(integer()).decode(errors="replace")
        calls, count = integer(), integer()
        sums = np.frombuffer(take(4 * count), dtype="<f4")
        entries[name] = np.divide(sums, np.float32(max(calls, 1)), dtype=np.float32)
    if not entries:
        raise QuantizationError(f"{path}: not an importance matrix", hint=_AGAIN)
    return entries
