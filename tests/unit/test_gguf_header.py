"""GGUF headers: a file as bytes, round trips, the gguf library as reader, and files broken in every place."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantkit.errors import GGUFError
from quantkit.ggml.types import GGMLType
from quantkit.gguf.header import TensorInfo, align, encode_header, read_header
from quantkit.gguf.key_types import known_type
from quantkit.gguf.kv import KV, KVType, array, boolean, f32, i32, string, u16, u32

U32, U64 = struct.Struct("<I").pack, struct.Struct("<Q").pack

# Two entries, two tensors; the data section begins at byte 192.
WHOLE = (
    b"GGUF" b"\x03\0\0\0" b"\x02\0\0\0\0\0\0\0" b"\x02\0\0\0\0\0\0\0"
    b"\x14\0\0\0\0\0\0\0general.architecture" b"\x08\0\0\0" b"\x05\0\0\0\0\0\0\0llama"
    b"\x06\0\0\0\0\0\0\0tokens" b"\x09\0\0\0" b"\x08\0\0\0" b"\x02\0\0\0\0\0\0\0"
    b"\x01\0\0\0\0\0\0\0a" b"\x02\0\0\0\0\0\0\0\xc4\xa0"
    b"\x01\0\0\0\0\0\0\0w" b"\x02\0\0\0" b"\x20\0\0\0\0\0\0\0" b"\x02\0\0\0\0\0\0\0" b"\x08\0\0\0" b"\0\0\0\0\0\0\0\0"
    b"\x01\0\0\0\0\0\0\0n" b"\x01\0\0\0" b"\x03\0\0\0\0\0\0\0" b"\0\0\0\0" b"\x60\0\0\0\0\0\0\0"
)  # fmt: skip
WHOLE = WHOLE.ljust(192, b"\0")
METADATA = [string("general.architecture", "llama"), array("tokens", ["a", "Ġ"], KVType.STRING)]
TENSORS = [TensorInfo("w", (2, 32), GGMLType.Q8_0, 0), TensorInfo("n", (3,), GGMLType.F32, 96)]
DATA = bytes(range(108))  # 68 bytes of w, padding to 96, 12 bytes of n


def read(folder: Path, data: bytes) -> Any:
    path = folder / "x.gguf"
    path.write_bytes(data)
    return read_header(path)


def test_a_whole_file_as_bytes(tmp_path: Path) -> None:
    assert encode_header(METADATA, TENSORS) == WHOLE
    header = read(tmp_path, WHOLE + DATA)
    assert list(header.metadata.values()) == METADATA
    assert list(header.tensors.values()) == TENSORS
    assert (header.data_offset, header.alignment) == (192, 32)
    assert header.value("general.architecture") == "llama"
    assert (header.value("none"), header.value("none", 7)) == (None, 7)


def test_entries_as_bytes() -> None:
    assert u32("k", 258).encoded == b"\x01\0\0\0\0\0\0\0k\x04\0\0\0\x02\x01\0\0"
    assert i32("k", -2).encoded == b"\x01\0\0\0\0\0\0\0k\x05\0\0\0\xfe\xff\xff\xff"
    assert f32("k", 1.5).encoded == b"\x01\0\0\0\0\0\0\0k\x06\0\0\0\0\0\xc0\x3f"
    assert boolean("k", True).encoded == b"\x01\0\0\0\0\0\0\0k\x07\0\0\0\x01"
    assert string("é", "你").encoded == b"\x02\0\0\0\0\0\0\0\xc3\xa9\x08\0\0\0\x03\0\0\0\0\0\0\0\xe4\xbd\xa0"
    assert array("k", [1, -1], KVType.INT32).encoded == (
        b"\x01\0\0\0\0\0\0\0k\x09\0\0\0\x05\0\0\0\x02\0\0\0\0\0\0\0\x01\0\0\0\xff\xff\xff\xff"
    )


@pytest.mark.parametrize("size", range(70))
def test_align(size: int) -> None:
    aligned = align(size)
    assert aligned % 32 == 0
    assert 0 <= aligned - size < 32


RANGES = {
    KVType.UINT8: st.integers(0, 2**8 - 1),
    KVType.INT8: st.integers(-(2**7), 2**7 - 1),
    KVType.UINT16: st.integers(0, 2**16 - 1),
    KVType.INT16: st.integers(-(2**15), 2**15 - 1),
    KVType.UINT32: st.integers(0, 2**32 - 1),
    KVType.INT32: st.integers(-(2**31), 2**31 - 1),
    KVType.UINT64: st.integers(0, 2**64 - 1),
    KVType.INT64: st.integers(-(2**63), 2**63 - 1),
    KVType.FLOAT32: st.floats(width=32, allow_nan=False),
    KVType.FLOAT64: st.floats(allow_nan=False),
    KVType.BOOL: st.booleans(),
    KVType.STRING: st.text(max_size=12),
}
KEYS = st.text(min_size=1, max_size=12).filter(
    lambda key: "\0" not in key and known_type(key) is None and not key.endswith(".block_count")
)


@st.composite
def entries(draw: st.DrawFn) -> list[KV]:
    found = []
    for key in draw(st.lists(KEYS, unique=True, max_size=6)):
        kind = draw(st.sampled_from(list(RANGES)))
        if draw(st.booleans()):
            found.append(array(key, draw(st.lists(RANGES[kind], max_size=5)), kind))
        else:
            found.append(KV(key, draw(RANGES[kind]), kind))
    return found


@st.composite
def tensors(draw: st.DrawFn) -> list[TensorInfo]:
    found, offset = [], 0
    names = st.text(min_size=1, max_size=8).filter(lambda name: "\0" not in name)
    for name in draw(st.lists(names, unique=True, max_size=4)):
        kind = draw(st.sampled_from(list(GGMLType)))
        outer = draw(st.lists(st.integers(1, 3), max_size=3))
        info = TensorInfo(name, (*outer, kind.block * draw(st.integers(1, 2))), kind, offset)
        found.append(info)
        offset += align(kind.nbytes(info.shape))
    return found


@given(metadata=entries(), infos=tensors())
def test_what_is_encoded_is_parsed(
    tmp_path_factory: pytest.TempPathFactory, metadata: list[KV], infos: list[TensorInfo]
) -> None:
    raw = encode_header(metadata, infos)
    size = max((info.offset + info.type.nbytes(info.shape) for info in infos), default=0)
    header = read(tmp_path_factory.mktemp("round"), raw + bytes(size))
    assert list(header.metadata.values()) == metadata
    assert list(header.tensors.values()) == infos
    assert header.data_offset == len(raw)
    assert len(raw) % 32 == 0


def test_the_gguf_library_reads_it(tmp_path: Path) -> None:
    values: dict[KVType, Any] = {
        KVType.UINT8: 200, KVType.INT8: -3, KVType.UINT16: 60000, KVType.INT16: -300, KVType.UINT32: 4_000_000_000,
        KVType.INT32: -70000, KVType.UINT64: 2**63, KVType.INT64: -(2**40), KVType.FLOAT32: 0.1, KVType.FLOAT64: 0.1,
        KVType.BOOL: True, KVType.STRING: "ünï 你好",
    }  # fmt: skip
    metadata = [string("general.architecture", "llama")]
    metadata += [KV(f"one.{kind.name}", value, kind) for kind, value in values.items()]
    metadata += [array(f"many.{kind.name}", [value, value], kind) for kind, value in values.items()]
    path = tmp_path / "x.gguf"
    path.write_bytes(encode_header(metadata, TENSORS) + DATA)
    reader = gguf.GGUFReader(path)
    for kind, value in values.items():
        expected = struct.unpack("<f", struct.pack("<f", 0.1))[0] if kind is KVType.FLOAT32 else value
        one, many = reader.fields[f"one.{kind.name}"], reader.fields[f"many.{kind.name}"]
        assert one.types == [gguf.GGUFValueType[kind.name]]
        assert one.contents() == expected
        assert many.types == [gguf.GGUFValueType.ARRAY, gguf.GGUFValueType[kind.name]]
        assert many.contents() == [expected, expected]
    first, second = reader.tensors
    assert (first.name, first.shape.tolist(), first.tensor_type.name) == ("w", [32, 2], "Q8_0")
    assert (second.name, second.shape.tolist(), second.tensor_type.name) == ("n", [3], "F32")
    assert first.data.tobytes() == DATA[:68]
    assert second.data.tobytes() == DATA[96:]


def test_a_file_of_the_gguf_library_is_read(tmp_path: Path) -> None:
    import numpy as np

    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    writer.add_custom_alignment(64)
    writer.add_array("words", ["a", "bc"])
    writer.add_tensor("w", np.arange(6, dtype=np.float32).reshape(2, 3))
    writer.add_tensor("v", np.arange(3, dtype=np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    header = read_header(tmp_path / "x.gguf")
    assert header.alignment == 64
    assert header.value("words") == ["a", "bc"]
    assert header.tensors == {
        "w": TensorInfo("w", (2, 3), GGMLType.F32, 0),
        "v": TensorInfo("v", (3,), GGMLType.F16, 64),
    }
    assert (tmp_path / "x.gguf").read_bytes()[header.data_offset :][:4] == struct.pack("<f", 0.0)
    assert header.data_offset % 64 == 0


def test_version_2_is_read(tmp_path: Path) -> None:
    assert list(read(tmp_path, WHOLE[:4] + U32(2) + WHOLE[8:] + DATA).tensors) == ["w", "n"]


def test_a_file_cut_anywhere(tmp_path: Path) -> None:
    whole = WHOLE + DATA
    for size in range(len(whole)):
        with pytest.raises(GGUFError, match=r"x\.gguf: "):
            read(tmp_path, whole[:size])
    assert len(read(tmp_path, whole).tensors) == 2


@given(flips=st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), min_size=1, max_size=3))
def test_a_damaged_file_is_refused_or_sound(
    tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[int, int]]
) -> None:
    data = bytearray(WHOLE + DATA)
    for at, value in flips:
        data[at] = value
    try:
        header = read(tmp_path_factory.mktemp("damaged"), bytes(data))
    except GGUFError:
        return
    for info in header.tensors.values():
        assert header.data_offset + info.offset + info.type.nbytes(info.shape) <= len(data)


def file(*parts: bytes, entries: int = 0, tensors: int = 0, version: int = 3) -> bytes:
    return (b"GGUF" + U32(version) + U64(tensors) + U64(entries) + b"".join(parts)).ljust(4096, b"\0")


def text(value: str) -> bytes:
    return U64(len(value.encode())) + value.encode()


def tensor(name: str = "t", dims: tuple[int, ...] = (4,), kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + U32(len(dims)) + b"".join(map(U64, dims)) + U32(kind) + U64(offset)


BROKEN = {
    "empty": (b"", "not a GGUF file"),
    "other-magic": (b"GGML" + file()[4:], "not a GGUF file"),
    "version-1": (file(version=1), "GGUF version 1; supported are 2 and 3"),
    "version-4": (file(version=4), "GGUF version 4"),
    "big-endian": (file(version=3 << 24), "GGUF version 50331648"),
    "many-entries": (file(entries=2**60), "truncated, or not a valid GGUF header"),
    "many-tensors": (file(tensors=2**60), "truncated, or not a valid GGUF header"),
    "long-key": (file(U64(2**60), entries=1), "truncated, or not a valid GGUF header"),
    "not-utf8": (file(U64(1) + b"\xff", entries=1), "not UTF-8"),
    "unknown-kind": (file(text("k") + U32(13), entries=1), "metadata type 13 is unknown"),
    "unknown-item": (file(text("k") + U32(9) + U32(99) + U64(0), entries=1), "metadata type 99 is unknown"),
    "nested": (file(text("k") + U32(9) + U32(9) + U64(1), entries=1), "'k' is an array of arrays"),
    "long-array": (file(text("k") + U32(9) + U32(0) + U64(2**50), entries=1), "'k' has 1125899906842624 elements"),
    "wide-array": (file(text("k") + U32(9) + U32(12) + U64(4000), entries=1), "truncated, or not a valid GGUF header"),
    "same-key": (file(u32("k", 1).encoded, u32("k", 2).encoded, entries=2), "key 'k' appears twice"),
    "same-tensor": (file(tensor(), tensor(offset=32), tensors=2), "tensor 't' appears twice"),
    "five-dims": (file(tensor(dims=(1,) * 5), tensors=1), "tensor 't' has 5 dimensions"),
    "unknown-type": (file(tensor(kind=4), tensors=1), "tensor 't' has the unknown type 4"),
    "misaligned": (file(tensor(offset=4), tensors=1), "'t' starts at byte 4 of the data; expected 0"),
    "gap": (file(tensor(offset=32), tensors=1), "'t' starts at byte 32 of the data; expected 0"),
    "long-name": (file(text("t" * 64) + tensor()[9:], tensors=1), "a name has at most 63 bytes"),
    "nul-in-name": (file(text("t\0") + tensor()[9:], tensors=1), "and no NUL character"),
    "past-the-end": (file(tensor(dims=(1024,)), tensors=1), "truncated: tensor 't' ends at byte"),
    "far-past-the-end": (file(tensor(offset=2**63), tensors=1), "'t' starts at byte 9223372036854775808 of"),
    "huge": (file(tensor(dims=(2**63, 2**63, 2**63)), tensors=1), "truncated: tensor 't' ends at byte"),
    "alignment-3": (file(u32("general.alignment", 3).encoded, entries=1), "alignment 3 is not a power of two"),
    "alignment-0": (file(u32("general.alignment", 0).encoded, entries=1), "alignment 0 is not a power of two"),
    "alignment-text": (file(string("general.alignment", "32").encoded, entries=1), "has the type string; llama.cpp"),
    "alignment-wide": (
        file(text("general.alignment") + U32(10) + U64(32), entries=1),
        "has the type uint64; llama.cpp",
    ),
    "tokens-of-numbers": (
        file(array("tokenizer.ggml.tokens", [1], KVType.INT32).encoded, entries=1),
        "array of string",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_headers(tmp_path: Path, name: str) -> None:
    data, message = BROKEN[name]
    with pytest.raises(GGUFError, match=message) as caught:
        read(tmp_path, data)
    assert caught.value.hint


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(GGUFError, match="no such file"):
        read_header(tmp_path / "x.gguf")
    with pytest.raises(GGUFError, match="this is a folder, not a GGUF file"):
        read_header(tmp_path)


def test_sizes_are_the_gguf_librarys() -> None:
    for kind in GGMLType:
        # Q8_1 is for products in memory, no file holds it; the gguf library has an old size of it.
        if kind.name in gguf.GGMLQuantizationType.__members__ and kind is not GGMLType.Q8_1:
            theirs = gguf.GGMLQuantizationType[kind.name]
            assert theirs.value == kind.value
            assert gguf.GGML_QUANT_SIZES[theirs] == (kind.block, kind.block_nbytes)
            shape = (3, 2, 4 * kind.block)
            assert kind.nbytes(shape) == math.prod(gguf.quant_shape_to_byte_shape(shape, theirs))


@pytest.mark.parametrize("shape", [(0, 32), (4, 0), (2, 33)])
def test_shapes_that_hold_nothing_whole(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(encode_header([], [TensorInfo("t", shape, GGMLType.Q8_0, 0)]) + bytes(256))
    with pytest.raises(GGUFError, match="'t'"):
        read_header(path)


@pytest.mark.parametrize("key", ["", "a\0b", "\0"])
def test_a_key_that_c_reads_otherwise(tmp_path: Path, key: str) -> None:
    with pytest.raises(GGUFError, match="key"):
        read(tmp_path, encode_header([string(key, "x")], []))


@pytest.mark.parametrize("layers", [0, 513, 2**32 - 1])
def test_more_layers_than_llama_cpp_has_room_for(tmp_path: Path, layers: int) -> None:
    with pytest.raises(GGUFError, match=r"llama\.block_count"):
        read(tmp_path, encode_header([u32("llama.block_count", layers)], []))
    assert read(tmp_path, encode_header([u32("llama.block_count", 512)], [])).value("llama.block_count") == 512


@pytest.mark.parametrize(
    ("make", "value"),
    [(u32, -1), (u32, 2**32), (i32, 2**31), (i32, math.nan), (f32, 1e308), (f32, 2**2000), (f32, math.inf)],
    ids=lambda part: getattr(part, "__name__", repr(part)),
)
def test_numbers_that_have_no_room(make: Callable[[str, float], KV], value: float) -> None:
    with pytest.raises(GGUFError, match=r"the\.key is"):
        make("the.key", value)


@pytest.mark.parametrize("value", ["x", None, [], {}, [1]], ids=repr)
@pytest.mark.parametrize("make", [u16, u32, i32, f32], ids=lambda make: make.__name__)
def test_what_is_no_number(make: Callable[[str, Any], KV], value: object) -> None:
    with pytest.raises(GGUFError, match=r"the\.key is"):
        make("the.key", value)


def test_what_is_no_text() -> None:
    for make in (lambda: string("the.key", 1), lambda: array("the.key", ["a", 1], KVType.STRING)):  # type: ignore[arg-type]
        with pytest.raises(GGUFError, match=r"the\.key is"):
            make()
    for entry in (array("the.key", [2**31], KVType.INT32), KV("the.key", "x", KVType.UINT8)):
        with pytest.raises(GGUFError, match=r"the\.key has a value that GGUF cannot store"):
            encode_header([entry], [])


def test_half_a_surrogate_pair() -> None:
    for make in (lambda: string("the.key", "\ud800"), lambda: array("the.key", ["a", "\udfff"], KVType.STRING)):
        with pytest.raises(GGUFError, match=r"the\.key is not valid Unicode"):
            make()
