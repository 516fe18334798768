"""Importance matrices in both of llama-imatrix's formats, with random sums."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np

from tests.support.gguf_read import read_gguf

Importance = dict[str, np.ndarray]


def write_imatrix(
    path: Path, model: Path, covers: Callable[[str], bool] = lambda name: True
) -> tuple[Path, Importance]:
    """A GGUF imatrix of the layers' matrices: sums of squares, and the counts they are over.

    Of stacked experts each has its own count, and the first was never called.

    Args:
        path: to write.
        model: a GGUF file.
        covers: by name, which of its tensors the matrix has.

    Returns:
        The file, and by tensor the importances that llama-quantize makes of it.
    """
    random = np.random.default_rng(5)
    writer = gguf.GGUFWriter(path, arch="")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["text"])
    writer.add_uint32("imatrix.chunk_count", 3)
    writer.add_uint32("imatrix.chunk_size", 512)
    means: Importance = {}
    for name, tensor in read_gguf(model).tensors.items():
        if len(tensor.shape) < 2 or not name.startswith("blk.") or not covers(name):
            continue
        experts = tensor.shape[2] if len(tensor.shape) == 3 else 1
        sums = (random.random((experts, tensor.shape[0])) ** 3 * 100).astype(np.float32)
        counts = np.arange(experts, dtype=np.float32) * 16 if experts > 1 else np.array([48], dtype=np.float32)
        writer.add_tensor(f"{name}.in_sum2", sums)
        writer.add_tensor(f"{name}.counts", counts.reshape(-1, 1))
        rows = [row / count if count else np.ones_like(row) for row, count in zip(sums, counts, strict=True)]
        means[name] = np.concatenate(rows).astype(np.float32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path, means


def write_legacy_imatrix(path: Path, importance: Importance, calls: int = 4) -> Path:
    """The older .dat with the same importances: each value times the number of calls, a power of two."""
    raw = [struct.pack("<i", len(importance))]
    for name, values in importance.items():
        raw += [struct.pack("<i", len(name)), name.encode(), struct.pack("<ii", calls, values.size)]
        raw.append((values * np.float32(calls)).astype("<f4").tobytes())
    path.write_bytes(b"".join(raw))
    return path
