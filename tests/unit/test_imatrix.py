"""Importance matrices in both of llama.cpp's forms, made by hand, and broken ones."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest

from quantkit.calibrate.imatrix_file import PROGRESS, read_progress
from quantkit.errors import QuantizationError
from quantkit.ggml.types import GGMLType
from quantkit.gguf.header import TensorInfo, align, encode_header
from quantkit.gguf.kv import KV, KVType, array, string, u32
from quantkit.plan.imatrix import read_imatrix

HEAD = [
    string("general.type", "imatrix"),
    array("imatrix.datasets", ["text"], KVType.STRING),
    u32("imatrix.chunk_count", 3),
    u32("imatrix.chunk_size", 512),
]


def write(path: Path, tensors: dict[str, np.ndarray], head: list[KV] = HEAD, kind: GGMLType = GGMLType.F32) -> Path:
    infos, data = [], b""
    for name, values in tensors.items():
        infos.append(TensorInfo(name, values.shape, kind, len(data)))
        raw = values.tobytes()
        data += raw.ljust(align(len(raw)), b"\0")
    path.write_bytes(encode_header(head, infos) + data)
    return path


def floats(*values: float, shape: tuple[int, ...] = (1, -1)) -> np.ndarray:
    return np.array(values, dtype=np.float32).reshape(shape)


def entry(name: str, calls: int, *sums: float) -> bytes:
    raw = name.encode()
    return struct.pack(f"<i{len(raw)}sii{len(sums)}f", len(raw), raw, calls, len(sums), *sums)


def legacy(*entries: bytes, tail: bytes = b"") -> bytes:
    return struct.pack("<i", len(entries)) + b"".join(entries) + tail


def plain(path: Path) -> dict[str, list[float]]:
    found = read_imatrix(path)
    assert all(values.dtype == np.float32 and values.ndim == 1 for values in found.values())
    return {name: values.tolist() for name, values in found.items()}


def test_gguf(tmp_path: Path) -> None:
    tensors = {
        "blk.0.attn_q.weight.in_sum2": floats(2, 4, 8, 1),
        "blk.0.attn_q.weight.counts": floats(4),
        "output.weight.in_sum2": floats(3, 0),
        "output.weight.counts": floats(3),
    }
    assert plain(write(tmp_path / "x", tensors)) == {
        "blk.0.attn_q.weight": [0.5, 1.0, 2.0, 0.25],
        "output.weight": [1.0, 0.0],
    }


def test_gguf_of_experts(tmp_path: Path) -> None:
    """A count for each expert; one that was never called has the importance 1."""
    sums = floats(2, 4, 9, 9, 5, 10, shape=(3, 2))
    tensors = {"e.in_sum2": sums, "e.counts": floats(2, 0, 5, shape=(3, 1))}
    assert plain(write(tmp_path / "x", tensors)) == {"e": [1.0, 2.0, 1.0, 1.0, 1.0, 2.0]}


def test_counts_are_rounded_as_llama_cpp_does(tmp_path: Path) -> None:
    tensors = {"w.in_sum2": floats(6), "w.counts": floats(2.6)}
    assert plain(write(tmp_path / "x", tensors)) == {"w": [2.0]}


def test_a_file_of_the_gguf_library(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", arch="")
    writer.add_type("imatrix")
    writer.add_uint32("imatrix.chunk_count", 1)
    writer.add_tensor("w.in_sum2", floats(2, 6))
    writer.add_tensor("w.counts", floats(2))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert plain(tmp_path / "x.gguf") == {"w": [1.0, 3.0]}


def test_the_older_form(tmp_path: Path) -> None:
    data = legacy(entry("w", 4, 2, 4, 8), entry("输出", 0, 5), tail=struct.pack("<ii4s", 7, 4, b"text"))
    (tmp_path / "x.dat").write_bytes(data)
    assert plain(tmp_path / "x.dat") == {"w": [0.5, 1.0, 2.0], "输出": [5.0]}


def test_the_older_form_as_bytes(tmp_path: Path) -> None:
    data = b"\x01\0\0\0\x03\0\0\0a.b\x02\0\0\0\x01\0\0\0\0\0\x40\x40"
    assert data == legacy(entry("a.b", 2, 3.0))
    (tmp_path / "x.dat").write_bytes(data)
    assert plain(tmp_path / "x.dat") == {"a.b": [1.5]}


def test_both_forms_cut_anywhere(tmp_path: Path) -> None:
    whole = legacy(entry("w", 4, 2, 4, 8), entry("v", 1, 5, 6))
    path = tmp_path / "x.dat"
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(QuantizationError, match=r"x\.dat: "):
            read_imatrix(path)
    # The last tensor's padding is not missed.
    data = write(tmp_path / "y.gguf", {"w.in_sum2": floats(2, 4), "w.counts": floats(2)}).read_bytes()[:-28]
    path = tmp_path / "x.gguf"
    for size in range(len(data)):
        path.write_bytes(data[:size])
        with pytest.raises(QuantizationError, match=r"x\.gguf: "):
            read_imatrix(path)
    path.write_bytes(data)
    assert plain(path) == {"w": [1.0, 2.0]}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\0\0\0",
        b"\xff\xff\xff\xff",
        b"not an imatrix at all, but a text",
        struct.pack("<ii", 1, -5),
        struct.pack("<ii1sii", 1, 1, b"w", 1, -1),
        struct.pack("<ii1sii", 1, 1, b"w", 1, 2**30),
    ],
    ids=["empty", "no-entries", "negative", "text", "negative-name", "negative-size", "huge-size"],
)
def test_older_files_that_are_none(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.dat").write_bytes(data)
    with pytest.raises(QuantizationError, match="not an importance matrix"):
        read_imatrix(tmp_path / "x.dat")


def test_gguf_files_that_are_none(tmp_path: Path) -> None:
    sums, counts = floats(2, 4), floats(2)
    with pytest.raises(QuantizationError, match="not an importance matrix"):
        read_imatrix(write(tmp_path / "x", {"w": sums}))
    with pytest.raises(QuantizationError, match="not an importance matrix"):
        read_imatrix(write(tmp_path / "x", {"w.in_sum2": sums, "w.counts": counts}, head=HEAD[:2]))
    with pytest.raises(QuantizationError, match="'w' has sums but no counts"):
        read_imatrix(write(tmp_path / "x", {"w.in_sum2": sums}))
    halves = {name: values.astype(np.float16) for name, values in {"w.in_sum2": sums, "w.counts": counts}.items()}
    with pytest.raises(QuantizationError, match=r"'w\.in_sum2' has type f16; expected f32"):
        read_imatrix(write(tmp_path / "x", halves, kind=GGMLType.F16))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(tmp_path: Path, value: float) -> None:
    with pytest.raises(QuantizationError, match="'w' has NaN or infinite importances"):
        read_imatrix(write(tmp_path / "x", {"w.in_sum2": floats(1, value), "w.counts": floats(2)}))
    (tmp_path / "x.dat").write_bytes(legacy(entry("w", 2, 1, value)))
    with pytest.raises(QuantizationError, match="'w' has NaN or infinite importances"):
        read_imatrix(tmp_path / "x.dat")


@pytest.mark.parametrize("count", [np.nan, np.inf, -1, 1e30])
def test_counts_that_are_none(tmp_path: Path, count: float) -> None:
    with pytest.raises(QuantizationError, match="'w' has counts that are not numbers from 0 up"):
        read_imatrix(write(tmp_path / "x", {"w.in_sum2": floats(1, 2), "w.counts": floats(count)}))


_PROGRESS = {"done": 1, "chunks": 2, "context": 8, "tokens": "t", "model": "m"}


@pytest.mark.parametrize(
    "text",
    [
        *(json.dumps({**_PROGRESS, key: value}) for key in _PROGRESS for value in (None, [], -1, 0.5)),
        *(json.dumps({**_PROGRESS, "done": 3}), "{}", "[]", "null", "{", "[" * 100_000, "1" * 5000),
    ],
)
def test_progress_that_is_none(tmp_path: Path, text: str) -> None:
    tensors = {"w.in_sum2": floats(1, 2), "w.counts": floats(2)}
    assert read_progress(write(tmp_path / "x", tensors, [*HEAD, string(PROGRESS, text)])) is None


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(QuantizationError, match="cannot be read"):
            read_imatrix(path)


@pytest.mark.parametrize("counts", [3, 4])
def test_counts_that_do_not_divide(tmp_path: Path, counts: int) -> None:
    tensors = {"w.in_sum2": floats(*range(10)), "w.counts": np.ones((counts, 1), dtype=np.float32)}
    with pytest.raises(QuantizationError, match="'w'"):
        read_imatrix(write(tmp_path / "x", tensors))
