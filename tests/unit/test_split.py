"""Split GGUF models: names, what is in each part, packages of them, and llama.cpp running one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_gguf import write_tiny_gguf

from quantkit.errors import OutputError
from quantkit.files.exchange import exchange
from quantkit.ggml.types import GGMLType
from quantkit.gguf.header import read_header
from quantkit.gguf.kv import string, u32
from quantkit.gguf.model import GGUFModel, read_model
from quantkit.gguf.split import named_count, part_name, part_path
from quantkit.jobs.build import build
from quantkit.jobs.convert import convert
from quantkit.jobs.inspect import inspect
from quantkit.jobs.package import package
from quantkit.jobs.quantize import quantize
from quantkit.jobs.recipe import Recipe
from quantkit.package.built import open_all
from quantkit.plan.gguf_outputs import unquantized_outputs
from quantkit.plan.values import PlannedTensor, by_model
from quantkit.verify.models import verify_outputs

Maker = Callable[..., Path]


def test_names() -> None:
    assert part_name("a.b", 0, 12) == "a.b-00001-of-00012.gguf"
    path = Path("x") / "m-00002-of-00012.gguf"
    assert part_path(path, 11) == Path("x") / "m-00012-of-00012.gguf"
    assert (part_path(Path("m.gguf"), 0), part_path(Path("m-2-of-3.gguf"), 0)) == (None, None)
    assert (named_count(path), named_count(Path("m.gguf"))) == (12, 1)


def tensors(*rows: int) -> list[PlannedTensor]:
    return [PlannedTensor(f"t{i}", f"t{i}", (count, 16), GGMLType.F16) for i, count in enumerate(rows)]


def test_parts_are_no_larger_than_asked_for_where_that_can_be() -> None:
    """32 bytes a row. A tensor larger than the limit has a part of its own."""
    outputs = unquantized_outputs("m.gguf", "f16", [string("a", "b")], tensors(2, 1, 4, 1, 1), 96)
    assert [list(output.tensors) for output in outputs] == [["t0", "t1"], ["t2"], ["t3", "t4"]]
    assert [output.file for output in outputs] == [f"m-0000{n}-of-00003.gguf" for n in (1, 2, 3)]
    assert [output.label for output in outputs] == ["f16"] * 3
    assert by_model(outputs) == (tuple(outputs),)


def test_one_part_is_a_plain_file() -> None:
    plain = unquantized_outputs("m.gguf", "f16", [string("a", "b")], tensors(2, 1))
    assert unquantized_outputs("m.gguf", "f16", [string("a", "b")], tensors(2, 1), 96) == plain
    assert (plain[0].file, b"split" in plain[0].header) == ("m.gguf", False)


def test_headers_of_parts(tmp_path: Path) -> None:
    outputs = unquantized_outputs("m.gguf", "f16", [u32("general.alignment", 32)], tensors(3, 3), 96)
    headers = []
    for output in outputs:
        (tmp_path / output.file).write_bytes(output.header.ljust(output.nbytes, b"\0"))
        headers.append(read_header(tmp_path / output.file))
    keys = ["split.no", "split.count", "split.tensors.count"]
    assert list(headers[0].metadata)[-3:] == keys
    assert list(headers[1].metadata) == keys
    assert [[header.value(key) for key in keys] for header in headers] == [[0, 2, 2], [1, 2, 2]]
    model = read_model(tmp_path / outputs[0].file)
    assert list(model.header.metadata) == ["general.alignment", "general.file_type", "general.quantization_version"]
    assert model.locate("t1") == (1, len(outputs[1].header))
    assert model.nbytes == sum(output.nbytes for output in outputs)
    with pytest.raises(KeyError):
        model.locate("t2")


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that llama.cpp runs, in parts; the first of them."""
    folder = tmp_path_factory.mktemp("parts")
    whole = write_tiny_gguf(folder / "tiny.gguf")
    return quantize(whole, folder / "tiny.gguf.parts.gguf", quant="f16", split_max_size=whole.stat().st_size // 7)


def test_inspect_sees_the_whole(parts: Path) -> None:
    whole, found = inspect(parts.with_name("tiny.gguf")), inspect(parts)
    assert found["files"] == [path.name for path in read_model(parts).files]
    assert len(found["files"]) > 2
    for key in ("architecture", "parameters"):
        assert found[key] == whole[key]
    assert [tensor["name"] for tensor in found["tensors"]] == [tensor["name"] for tensor in whole["tensors"]]


def test_a_package_of_parts(parts: Path, tmp_path: Path) -> None:
    """No Modelfile, because Ollama takes single files only; said in the card. llama.cpp runs it."""
    out = package([parts], tmp_path / "pkg")
    names = [path.name for path in read_model(parts).files]
    assert {path.name for path in out.iterdir()} == {*names, "chat.sh", "chat.ps1", "README.md", "manifest.json"}
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    note, _ = manifest["notes"]  # the other is of the chat template
    assert "Ollama does not support split files" in note
    (model,) = manifest["models"]
    assert (model["file"], model["parts"]) == (names[0], names)
    assert model["size"] == sum((out / name).stat().st_size for name in names)
    assert model["tensors"].keys() == read_model(parts).header.tensors.keys()
    readme = (out / "README.md").read_text(encoding="utf-8")
    assert "Ollama does not support split files" in readme
    assert "ollama create" not in readme
    assert [found.gguf for found in open_all(out)] == [out / names[0]]
    assert verify_outputs([out / names[0]], origin=None).passed


def test_a_package_may_have_both_kinds(parts: Path, tmp_path: Path) -> None:
    whole = parts.with_name("tiny.gguf")
    out = package([parts, whole], tmp_path / "pkg")
    assert not (out / "Modelfile").exists()
    assert "FROM ./tiny.gguf" in (out / "Modelfile.gguf").read_text(encoding="utf-8")


def test_build_in_parts(checkpoint: Maker, tmp_path: Path) -> None:
    recipe = Recipe(
        model=checkpoint("llama3-untied", layers=1),
        quants=("q8_0", "q4_0"),
        out=tmp_path / "out",
        name="it",
        split_max_size=1_000_000,
    )
    result = build(recipe, verify=False)
    assert [parts[0].file for parts in result.plan.models] == sorted(
        (path.name for path in result.folder.glob("it-*-00001-of-*.gguf")), reverse=True
    )
    assert any("Ollama does not support split files" in note for note in result.plan.notes)
    whole = convert(checkpoint("llama3-untied", layers=1), tmp_path / "f16.gguf")
    for models in result.plan.models:
        expected = read_model(quantize(whole, tmp_path / f"{models[0].label}.gguf", quant=models[0].label))
        found = read_model(result.folder / models[0].file)
        assert len(found.files) == len(models) > 1
        assert found.header.metadata.keys() >= expected.header.metadata.keys()
        for name, info in expected.header.tensors.items():
            assert content(found, name) == content(expected, name), name
            assert found.header.tensors[name].type is info.type


def content(model: GGUFModel, name: str) -> bytes:
    number, offset = model.locate(name)
    info = model.header.tensors[name]
    with model.files[number].open("rb") as file:
        file.seek(offset)
        return file.read(info.type.nbytes(info.shape))


def test_parts_do_not_replace_each_other_or_inputs(parts: Path, tmp_path: Path) -> None:
    again = {"quant": "f16", "split_max_size": parts.with_name("tiny.gguf").stat().st_size // 7}
    with pytest.raises(OutputError, match="contains the input"):
        quantize(parts, parts.with_name("tiny.gguf.parts.gguf"), overwrite=True, **again)
    first = quantize(parts, tmp_path / "m.gguf", **again)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(OutputError, match="already exists"):
        quantize(parts, tmp_path / "m.gguf", **again)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert quantize(parts, tmp_path / "m.gguf", overwrite=True, **again) == first
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("exchanges", [True, False])
def test_all_parts_are_published_or_none(
    parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanges: bool
) -> None:
    again = {"quant": "f16", "split_max_size": parts.with_name("tiny.gguf").stat().st_size // 7}
    quantize(parts, tmp_path / "m.gguf", **again)
    for path in tmp_path.iterdir():
        path.write_bytes(b"old")
    rename = os.rename

    def failing(old: Path, new: Path) -> None:
        if Path(new).name.startswith("m-00003") and "old" not in Path(old).name:
            raise OSError(28, "No space left on device")
        rename(old, new)

    def failing_exchange(path: Path, other: Path) -> bool:
        if path.name.startswith("m-00003"):
            raise OSError(28, "No space left on device")
        return exchanges and exchange(path, other)

    monkeypatch.setattr(os, "rename", failing)
    monkeypatch.setattr("quantkit.files.workspace.exchange", failing_exchange if exchanges else lambda *names: False)
    with pytest.raises(OutputError, match="m-00003-of-"):
        quantize(parts, tmp_path / "m.gguf", overwrite=True, **again)
    assert {path.read_bytes() for path in tmp_path.iterdir()} == {b"old"}
