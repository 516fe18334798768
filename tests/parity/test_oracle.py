"""The oracle and the comparison are tested first: what they cannot see, no other test here can."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from tokenizers import Tokenizer

from tests.support.gguf_compare import differences, tensor_differences
from tests.support.gguf_read import Value, read_gguf
from tests.support.reference import REPOSITORY, ReferenceConverter, ReferenceError, reference_convert, reference_folder
from tests.support.vocabularies import test_vectors

Maker = Callable[..., Path]


@pytest.fixture(scope="module")
def written(checkpoint: Maker, reference_gguf: Maker) -> Path:
    return reference_gguf(checkpoint("llama3-untied"), "f16", pre="llama-bpe")


def _changed(source: Path, target: Path, position: int, old: bytes, new: bytes) -> Path:
    shutil.copyfile(source, target)
    with target.open("r+b") as file:
        file.seek(position)
        assert file.read(len(old)) == old
        file.seek(position)
        file.write(new)
    return target


@pytest.mark.parametrize("name", ["llama-bpe", "qwen2"])
def test_rebuilt_vocabularies_agree_with_all_of_llama_cpps_vectors(vocabulary: Maker, name: str) -> None:
    tokenizer = Tokenizer.from_file(str(vocabulary(name, small=False) / "tokenizer.json"))
    vectors = test_vectors(name)
    assert len(vectors) == 47
    assert [tokenizer.encode(text, add_special_tokens=False).ids for text, _ in vectors] == [ids for _, ids in vectors]


def test_the_resident_converter_writes_what_a_plain_run_writes(
    checkpoint: Maker, reference_gguf: Maker, tmp_path: Path
) -> None:
    model = checkpoint("qwen2", small=False, layers=1, padding=290)
    plain = reference_convert(model, tmp_path / "plain.gguf", "f16")
    assert reference_gguf(model, "f16").read_bytes() == plain.read_bytes()


def test_the_converter_names_a_vocabulary_it_does_not_know(
    checkpoint: Maker, converter: ReferenceConverter, tmp_path: Path
) -> None:
    with pytest.raises(ReferenceError, match="BPE pre-tokenizer was not recognized"):
        converter.convert(checkpoint("llama3-untied"), tmp_path / "out.gguf", "f16")


def test_the_reader_reads_what_llama_cpps_reader_reads(written: Path) -> None:
    ours, theirs = read_gguf(written), gguf.GGUFReader(written)
    fields = {name: field for name, field in theirs.fields.items() if not name.startswith("GGUF.")}
    assert {name: value.value for name, value in ours.metadata.items()} == {
        name: field.contents() for name, field in fields.items()
    }
    assert {name: value.type.rstrip("]").split("[") for name, value in ours.metadata.items()} == {
        name: [kind.name for kind in field.types] for name, field in fields.items()
    }
    assert list(ours.tensors) == [tensor.name for tensor in theirs.tensors]
    for tensor in theirs.tensors:
        mine = ours.tensors[tensor.name]
        assert (mine.shape, mine.type) == (tuple(tensor.shape), tensor.tensor_type.name)
        assert mine.offset == tensor.data_offset
        assert np.array_equal(mine.data, tensor.data.view(np.uint8).reshape(-1))


def test_a_file_equals_itself(written: Path, tmp_path: Path) -> None:
    assert differences(written, Path(shutil.copyfile(written, tmp_path / "copy.gguf")), ignored=()) == []


def test_one_changed_byte_is_found(written: Path, tmp_path: Path) -> None:
    tensor = read_gguf(written).tensors["blk.1.ffn_up.weight"]
    old = bytes(tensor.data[777:778])
    changed = _changed(written, tmp_path / "a.gguf", tensor.offset + 777, old, bytes([old[0] ^ 1]))
    expected = [f"blk.1.ffn_up.weight: 1 of {tensor.data.size} bytes differ (F16), the first at 777"]
    assert differences(changed, written) == expected
    assert tensor_differences(changed, written) == expected


def test_one_changed_value_is_found(written: Path, tmp_path: Path) -> None:
    data = written.read_bytes()
    key = b"llama.block_count"
    at = data.index(key) + len(key) + 4
    changed = _changed(written, tmp_path / "a.gguf", at, struct.pack("<I", 2), struct.pack("<I", 3))
    assert differences(changed, written) == ["llama.block_count: 3, expected 2"]


def test_one_changed_type_is_found(written: Path, tmp_path: Path) -> None:
    data = written.read_bytes()
    key = b"llama.block_count"
    at = data.index(key) + len(key)
    changed = _changed(written, tmp_path / "a.gguf", at, struct.pack("<I", 4), struct.pack("<I", 5))
    assert differences(changed, written) == ["llama.block_count: type INT32, expected UINT32"]


def test_one_changed_key_is_found(written: Path, tmp_path: Path) -> None:
    at = written.read_bytes().index(b"llama.block_count")
    changed = _changed(written, tmp_path / "a.gguf", at, b"llama.block_count", b"llama.block_coumt")
    assert differences(changed, written) == ["llama.block_count: missing", "llama.block_coumt: not expected"]


def test_one_changed_token_is_found(written: Path, tmp_path: Path) -> None:
    token = struct.pack("<Q", len(b"<|eot_id|>")) + b"<|eot_id|>"
    at = written.read_bytes().index(token)
    changed = _changed(written, tmp_path / "a.gguf", at + 8, b"<|eot_id|>", b"<|eot_iD|>")
    number = read_gguf(written).metadata["tokenizer.ggml.tokens"].value.index("<|eot_id|>")
    assert differences(changed, written) == [
        f"tokenizer.ggml.tokens: 1 items differ, the first at {number}: '<|eot_iD|>', expected '<|eot_id|>'"
    ]


def test_free_text_may_differ_and_an_added_key_must_be_there(written: Path, tmp_path: Path) -> None:
    name = read_gguf(written).metadata["general.name"].value.encode()
    data = written.read_bytes()
    at = data.index(b"general.name") + len(b"general.name") + 4 + 8
    assert data[at : at + len(name)] == name
    changed = _changed(written, tmp_path / "a.gguf", at, name, b"x" * len(name))
    assert differences(changed, written) == []
    assert differences(changed, written, ignored=()) != []
    added = {"tokenizer.ggml.eot_token_id": Value("UINT32", 7)}
    assert differences(written, written, added=added) == ["tokenizer.ggml.eot_token_id: missing"]


def test_a_truncated_file_is_no_gguf_file(written: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.gguf"
    short.write_bytes(written.read_bytes()[:-64])
    with pytest.raises(ValueError, match="the file ends inside of"):
        read_gguf(short)


def test_the_reference_is_fetched_once() -> None:
    script = [sys.executable, str(REPOSITORY / "scripts" / "reference")]
    again = subprocess.run(script, capture_output=True, text=True, check=True)
    assert (again.stdout, again.stderr) == (f"{reference_folder()}\n", "")
    assert (reference_folder() / "models" / "templates" / "meta-llama-Llama-3.1-8B-Instruct.jinja").is_file()
