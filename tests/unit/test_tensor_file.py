"""Tensor files: safetensors against the safetensors library, pickles that must not run, and broken ones."""

from __future__ import annotations

import errno
import json
import math
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import quantkit.checkpoint.tensor_file
from quantkit.checkpoint.open_file import open_tensor_file
from quantkit.checkpoint.tensor_file import same_values
from quantkit.errors import AdapterError, CheckpointError
from tests.support.bits import bits

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
SHAPES = st.lists(st.integers(0, 5), max_size=3).map(tuple)


def random_bits(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> torch.Tensor:
    """Any bit pattern, NaN and subnormals included: bytes are what must survive."""
    count = torch.empty(shape).numel() * dtype.itemsize
    raw = torch.randint(0, 256, (count,), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return raw.view(dtype).reshape(shape)


def safetensors_bytes(header: object, data: bytes = b"") -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def entry(shape: list[Any], begin: Any, end: Any, dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@given(data=st.data())
def test_reads_what_the_safetensors_library_writes(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    shapes = data.draw(st.lists(SHAPES, min_size=1, max_size=4))
    kinds = data.draw(st.lists(st.sampled_from(sorted(DTYPES)), min_size=len(shapes), max_size=len(shapes)))
    written = {
        f"t{i}": random_bits(shape, DTYPES[kind], i) for i, (shape, kind) in enumerate(zip(shapes, kinds, strict=True))
    }
    path = tmp_path_factory.mktemp("round") / "x.safetensors"
    save_file(written, path, metadata={"format": "pt"})
    expected = load_file(path)
    file = open_tensor_file(path)
    try:
        assert file.specs.keys() == written.keys()
        for (name, tensor), kind in zip(written.items(), kinds, strict=True):
            spec = file.specs[name]
            assert (spec.name, spec.dtype, spec.shape, spec.file) == (name, kind, tuple(tensor.shape), path)
            assert spec.nbytes == tensor.numel() * tensor.element_size()
            assert path.read_bytes()[spec.offset :][: spec.nbytes] == bits(tensor)[2]
            rows = expected[name]
            if tensor.dim() > 2:
                rows = rows.reshape(math.prod(tensor.shape[:-1]), tensor.shape[-1])
            assert bits(file.read(name)) == bits(rows)
            if tensor.dim():
                start = data.draw(st.integers(0, len(rows)))
                stop = data.draw(st.integers(start, len(rows)))
                assert bits(file.read(name, start, stop)) == bits(rows[start:stop])
    finally:
        file.close()


def test_a_whole_file_as_bytes(tmp_path: Path) -> None:
    header = b'{"__metadata__":{"format":"pt"},"a":{"dtype":"F16","shape":[2,2],"data_offsets":[0,8]}}'
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"\x57\0\0\0\0\0\0\0" + header + b"\x00\x3c\x00\xc0\x01\x00\xff\x7b")
    file = open_tensor_file(path)
    assert file.read("a").tolist() == [[1.0, -2.0], [2.0**-24, 65504.0]]
    assert file.read("a", 1).tolist() == [[2.0**-24, 65504.0]]
    assert (file.specs["a"].offset, file.specs["a"].nbytes) == (8 + len(header), 8)
    file.close()


def test_types_nobody_will_read_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors_bytes({"i": entry([2], 0, 16, "I64"), "e": entry([3], 16, 19, "F8_E4M3")}, bytes(19)))
    file = open_tensor_file(path)
    assert {name: spec.dtype for name, spec in file.specs.items()} == {"i": "I64", "e": "F8_E4M3"}
    file.close()


BROKEN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", r"not a safetensors file \(0 bytes\)"),
    "seven-bytes": (b"1234567", r"not a safetensors file \(7 bytes\)"),
    "header-past-the-end": (struct.pack("<Q", 3) + b"{}", "header of 3 bytes, file of 10 bytes"),
    "huge-header": (b"\xff" * 16, "truncated or not a safetensors file"),
    "not-json": (safetensors_bytes(b"{"), "not valid JSON"),
    "not-utf8": (safetensors_bytes(b'{"\xff":1}'), "not valid JSON"),
    "too-deep": (safetensors_bytes(b"[" * 200_000), "not valid JSON"),
    "a-list": (safetensors_bytes([]), "not a JSON object"),
    "duplicate": (
        safetensors_bytes(
            b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
            b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
            bytes(4),
        ),
        "'a' appears twice",
    ),
    "overlap": (safetensors_bytes({"a": entry([2], 0, 8), "b": entry([1], 4, 8)}, bytes(8)), "'b' overlaps"),
    "same-place": (safetensors_bytes({"a": entry([1], 0, 4), "b": entry([1], 0, 4)}, bytes(4)), "overlaps"),
    "out-of-range": (safetensors_bytes({"a": entry([2], 0, 8)}, bytes(7)), "truncated: tensor 'a' ends at byte"),
    "far-out-of-range": (safetensors_bytes({"a": entry([1], 2**62, 2**62 + 4)}), "truncated: tensor 'a'"),
    "too-few-bytes": (safetensors_bytes({"a": entry([3], 0, 8)}, bytes(8)), "has 8 bytes, expected 12"),
    "too-many-bytes": (safetensors_bytes({"a": entry([1], 0, 8)}, bytes(8)), "has 8 bytes, expected 4"),
    "backwards": (safetensors_bytes({"a": entry([1], 8, 4)}, bytes(8)), "has -4 bytes, expected 4"),
    "negative-size": (safetensors_bytes({"a": entry([-1, -1], 0, 4)}, bytes(4)), "'a' has an invalid header entry"),
    "negative-offset": (safetensors_bytes({"a": entry([1], -4, 0)}, bytes(4)), "'a' has an invalid header entry"),
    "fraction": (safetensors_bytes({"a": entry([1.0], 0, 4)}, bytes(4)), "'a' has an invalid header entry"),
    "text-size": (safetensors_bytes({"a": entry(["1"], 0, 4)}, bytes(4)), "'a' has an invalid header entry"),
    "boolean-size": (safetensors_bytes({"a": entry([True], 0, 4)}, bytes(4)), "'a' has an invalid header entry"),
    # Their product has more digits than Python prints.
    "long-sizes": (safetensors_bytes({"a": entry([10**2500] * 2, 0, 4)}, bytes(4)), "'a' has an invalid header entry"),
    "many-sizes": (safetensors_bytes({"a": entry([2**62] * 300, 0, 4)}, bytes(4)), "'a' has an invalid header entry"),
    "unknown-type": (safetensors_bytes({"a": entry([1], 0, 4, "F31")}, bytes(4)), "'a' has an invalid header entry"),
    "no-type": (safetensors_bytes({"a": {"shape": [1], "data_offsets": [0, 4]}}, bytes(4)), "invalid header entry"),
    "no-offsets": (safetensors_bytes({"a": {"dtype": "F32", "shape": [1]}}, bytes(4)), "invalid header entry"),
    "one-offset": (
        safetensors_bytes({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}, bytes(4)),
        "invalid header entry",
    ),
    "a-number": (safetensors_bytes({"a": 3}), "'a' has an invalid header entry"),
    "a-text": (safetensors_bytes({"a": "F32"}), "'a' has an invalid header entry"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_headers(tmp_path: Path, name: str) -> None:
    data, message = BROKEN[name]
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_tensor_file(path)
    assert str(caught.value).startswith(f"{path}: ")


@given(cut=st.integers(0), flips=st.lists(st.tuples(st.integers(0), st.integers(0, 255)), max_size=3))
def test_a_damaged_file_is_refused_or_sound(
    tmp_path_factory: pytest.TempPathFactory, cut: int, flips: list[tuple[int, int]]
) -> None:
    data = bytearray(safetensors_bytes({"a": entry([2, 2], 0, 16), "b": entry([3], 16, 22, "F16")}, bytes(range(22))))
    for at, value in flips:
        data[at % len(data)] = value
    data = data[: len(data) - cut % len(data)]
    path = tmp_path_factory.mktemp("damaged") / "x.safetensors"
    path.write_bytes(data)
    try:
        file = open_tensor_file(path)
    except CheckpointError:
        return
    for spec in file.specs.values():
        assert 0 <= spec.offset <= spec.offset + spec.nbytes <= len(data)
    file.close()


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.ones(64, 64)}, path)
    file = open_tensor_file(path)
    with path.open("r+b") as handle:
        handle.truncate(path.stat().st_size - 1)
    assert file.read("a", 0, 63).sum() == 63 * 64
    with pytest.raises(CheckpointError, match="was truncated while"):
        file.read("a")
    file.close()


@pytest.mark.parametrize("name", ["x.safetensors", "x.bin"])
def test_a_file_that_is_not_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match=rf"{name}: file is missing"):
        open_tensor_file(tmp_path / name)


def test_a_folder_with_a_files_name(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").mkdir()
    with pytest.raises(CheckpointError, match="cannot be read"):
        open_tensor_file(tmp_path / "x.safetensors")


@pytest.mark.parametrize("name", ["x.safetensors", "x.bin"])
def test_an_adapters_file_is_reported_as_an_adapters(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"not a file of tensors")
    with pytest.raises(AdapterError, match=name):
        open_tensor_file(tmp_path / name, AdapterError)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old"])
def test_pickles(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "x.bin"
    written = {
        f"{kind}.{shape}": random_bits(shape, DTYPES[kind], 3) for kind in DTYPES for shape in [(), (3,), (4, 3)]
    }
    written["transposed"] = torch.arange(6.0).reshape(2, 3).T
    written["F16.column"] = torch.arange(3.0).half().reshape(1, 3).T  # contiguous, with a stride of 3 over one element
    written["BF16.one"] = torch.arange(15.0).bfloat16().reshape(3, 5)[1:2, 2:3].T
    written["F32.empty"] = torch.ones(3, 4)[:, 4:].T
    torch.save(written, path, _use_new_zipfile_serialization=zipped)
    file = open_tensor_file(path)
    assert {name: spec.shape for name, spec in file.specs.items()} == {k: tuple(v.shape) for k, v in written.items()}
    assert {name: spec.dtype for name, spec in file.specs.items()} == {
        name: name.split(".")[0] if "." in name else "F32" for name in written
    }
    for name, tensor in written.items():
        assert bits(file.read(name)) == bits(tensor)
        if tensor.dim():
            assert bits(file.read(name, 1, 3)) == bits(tensor[1:3])
    # What is read is a copy: merging in place must not change the file or the next read.
    file.read("transposed").fill(7)
    assert bits(file.read("transposed")) == bits(written["transposed"])
    file.close()
    assert path.is_file()


class Touch:
    """A pickle of this makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("form", ["zip", "old", "plain"])
def test_code_in_a_pickle_does_not_run(tmp_path: Path, form: str) -> None:
    path, marker = tmp_path / "x.bin", tmp_path / "ran"
    state = {"a": torch.ones(2), "b": Touch(marker)}
    if form == "plain":
        path.write_bytes(pickle.dumps(state, protocol=2))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(CheckpointError, match=r"x\.bin: (contains more than tensors|broken)") as caught:
        open_tensor_file(path)
    assert not marker.exists()
    assert "\n" not in str(caught.value)
    # The bait works where it is taken.
    if form == "plain":
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert marker.exists()


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ([torch.ones(2)], "contains a list, not a dictionary of tensors"),
        (torch.ones(2), "contains a Tensor, not a dictionary"),
        ({"a": torch.ones(2), "step": 7}, "entry 'step' is a int, not a tensor"),
        ({"model": {"a": torch.ones(2)}}, "entry 'model' is a dict, not a tensor"),
        ({5: torch.ones(2)}, "entry 5 is a Tensor, not a tensor"),
    ],
    ids=["list", "tensor", "number", "nested", "numbered"],
)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old"])
def test_pickles_of_something_else(tmp_path: Path, state: object, message: str, zipped: bool) -> None:
    torch.save(state, tmp_path / "x.bin", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=message):
        open_tensor_file(tmp_path / "x.bin")


def test_a_pickle_cut_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    torch.save({"a": torch.arange(6.0)}, path)
    whole = path.read_bytes()
    for size in range(0, len(whole), 23):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=r"x\.bin: "):
            open_tensor_file(path)


def test_an_old_pickle_cut_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    torch.save({"a": torch.arange(6.0)}, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=r"x\.bin: "):
            open_tensor_file(path)


class Runs:
    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit",)


@pytest.mark.parametrize("zipped", [True, False])
def test_nobody_is_told_to_run_the_code(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "x.bin"
    torch.save({"a": torch.ones(2), "x": Runs()}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"contains more than tensors \([\w.]*exec\)") as caught:
        open_tensor_file(path)
    assert "weights_only" not in str(caught.value) + caught.value.hint


def test_another_pickle_protocol_is_refused_without_a_warning(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "x.bin", pickle_protocol=4)
    with pytest.raises(CheckpointError, match="operand 149"):
        open_tensor_file(tmp_path / "x.bin")


def test_a_disk_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "x.safetensors")
    file = open_tensor_file(tmp_path / "x.safetensors")

    def fail(*args: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(quantkit.checkpoint.tensor_file, "read_into", fail)
    with pytest.raises(CheckpointError, match=r"cannot be read .*Input/output error") as caught:
        file.read("a")
    assert "disk" in caught.value.hint
    file.close()


def test_the_same_values_are_the_same_bits(tmp_path: Path) -> None:
    nan, big = torch.full((9, 2), math.nan), torch.arange(20000.0).reshape(10000, 2)
    tensors = {"nan": nan, "nan2": nan.clone(), "zero": torch.zeros(3), "minus": -torch.zeros(3), "big": big}
    tensors |= {"big2": big.clone(), "other": big.clone(), "turned": big.reshape(2, 10000).clone(), "one": big[0, 1]}
    tensors |= {
        "one2": big[0, 1].clone(),
        "half": nan.half(),
        "half2": nan.half().clone(),
        "cube": big.reshape(10, 500, 4),
    }
    tensors["other"][9999, 1] += 1
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, tmp_path / "x.safetensors")
    file = open_tensor_file(tmp_path / "x.safetensors")
    for one, other in (("nan", "nan2"), ("big", "big2"), ("one", "one2"), ("half", "half2"), ("cube", "cube")):
        assert same_values(file, one, other)
    for one, other in (("zero", "minus"), ("big", "other"), ("big", "turned"), ("nan", "half"), ("big", "cube")):
        assert not same_values(file, one, other)
    file.close()


def test_rows_are_read_into_memory_that_is_given(tmp_path: Path) -> None:
    tensors = {"a": random_bits((7, 5), torch.bfloat16, 1), "v": random_bits((6,), torch.float32, 2)}
    save_file(tensors, tmp_path / "x.safetensors")
    file = open_tensor_file(tmp_path / "x.safetensors")
    for name, tensor in tensors.items():
        buffer = np.zeros(1000, dtype=np.uint8)
        rows = file.read(name, 1, 4, lambda nbytes, buffer=buffer: buffer[:nbytes])
        assert np.shares_memory(rows, buffer)
        assert bits(rows) == bits(tensor[1:4])
        assert not buffer[rows.nbytes :].any()
    file.close()
