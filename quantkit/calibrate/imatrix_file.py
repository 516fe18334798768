"""The file of an importance matrix, as llama-imatrix writes it: its keys, its tensors and their order.

An unfinished file is one too, with whatever chunks it has; one key more says which, and what it was computed from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from quantkit.calibrate.sums import Sums
from quantkit.errors import GGUFError
from quantkit.files.json_fields import Fields
from quantkit.files.output_file import write_error
from quantkit.ggml.types import GGMLType
from quantkit.gguf.header import TensorInfo, align, encode_header, read_header
from quantkit.gguf.kv import KVType, array, string, u32
from quantkit.plan.imatrix import COUNTS, SUMS, read_tables

PROGRESS = "quantkit.imatrix.progress"


@dataclass(frozen=True)
class Progress:
    """How far an unfinished matrix is, and of what.

    Attributes:
        done: chunks that are in the sums.
        chunks: chunks in all.
        context: tokens of a chunk.
        tokens: sha256 of the token ids of all chunks.
        model: :func:`quantkit.gguf.fingerprint.fingerprint` of the model.
    """

    done: int
    chunks: int
    context: int
    tokens: str
    model: str


def write_imatrix(path: Path, sums: Mapping[str, Sums], data: str, context: int, progress: Progress | None) -> None:
    """Write a matrix.

    Args:
        path: the file.
        sums: by tensor name.
        data: name of the text's file.
        context: tokens of a chunk.
        progress: of an unfinished one; None for a finished one.

    Raises:
        OutputError: the file cannot be written.
    """
    most = max((int(one.counts.max()) for one in sums.values()), default=0)
    metadata = [
        string("general.type", "imatrix"),
        array("imatrix.datasets", [data], KVType.STRING),
        u32("imatrix.chunk_count", most // context),
        u32("imatrix.chunk_size", context),
    ]
    if progress is not None:
        metadata.append(string(PROGRESS, json.dumps(asdict(progress))))
    tensors: list[TensorInfo] = []
    parts: list[bytes] = []
    offset = 0
    for name in sorted(sums, key=str.encode):
        one = sums[name]
        matrices = len(one.counts)
        values = one.values.reshape(matrices, -1)
        for end, table in ((SUMS, values), (COUNTS, one.counts.astype(np.float32).reshape(matrices, 1))):
            shape = table.shape if matrices > 1 else table.shape[1:]
            tensors.append(TensorInfo(name + end, shape, GGMLType.F32, offset))
            raw = np.ascontiguousarray(table, dtype="<f4").tobytes()
            parts.append(raw.ljust(align(len(raw)), b"\0"))
            offset += len(parts[-1])
    try:
        path.write_bytes(encode_header(metadata, tensors) + b"".join(parts))
    except OSError as error:
        raise write_error(path, error) from None


def read_progress(path: Path) -> Progress | None:
    """How far the matrix in a file is; None if it is finished, or is something else.

    A file that cannot be read is something else.
    """
    try:
        text = read_header(path).value(PROGRESS)
        if text is None:
            return None
        fields = Fields(json.loads(text))
        done, chunks, context = (fields.size(key) for key in ("done", "chunks", "context"))
        return Progress(done, chunks, context, fields.text("tokens"), fields.text("model")) if done <= chunks else None
    except (GGUFError, TypeError, ValueError, RecursionError):
        return None


def read_sums(path: Path) -> dict[str, Sums]:
    """The sums in a file that :func:`write_imatrix` wrote.

    Raises:
        GGUFError: it is broken.
        QuantizationError: it is not such a file.
    """
    with path.open("rb") as file:
        tables = read_tables(path, read_header(path), file)
        return {name: Sums(sums.copy(), counts.astype(np.int64)) for name, sums, counts in tables}
