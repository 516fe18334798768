"""Packages made of GGUF files that exist already."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_gguf import Tiny, write_tiny_gguf

from quantkit.errors import ChatFormatError, GGUFError, OutputError, QuantkitError
from quantkit.files.workspace import Workspace
from quantkit.gguf.header import TensorInfo, encode_header, read_header
from quantkit.gguf.kv import string
from quantkit.jobs.build import build
from quantkit.jobs.convert import convert
from quantkit.jobs.package import package
from quantkit.jobs.quantize import quantize
from quantkit.jobs.recipe import Recipe

Maker = Callable[..., Path]


@pytest.fixture(scope="module")
def ggufs(checkpoint: Maker, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model as f16 and as q8_0."""
    folder = tmp_path_factory.mktemp("ggufs")
    f16 = convert(checkpoint("llama3-untied", layers=1), folder / "tiny-f16.gguf")
    return f16, quantize(f16, folder / "tiny-q8_0.gguf", quant="q8_0")


def manifest(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return found


def test_a_file_that_becomes_shorter_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf")

    def shortened(source: Path, work: Workspace) -> None:
        os.link(source, work.path / source.name)
        os.truncate(source, source.stat().st_size // 2)

    monkeypatch.setattr("quantkit.jobs.package_files._link", shortened)
    with pytest.raises(GGUFError, match=r"tiny\.gguf: was truncated while being read"):
        package((path,), tmp_path / "pkg")
    assert not (tmp_path / "pkg").exists()


def test_a_package_of_two_files(ggufs: tuple[Path, Path], tmp_path: Path) -> None:
    f16, q8_0 = ggufs
    out = package((q8_0, f16), tmp_path / "pkg", system="Be brief.", parameters=(("temperature", "0.2"),))
    assert out == tmp_path / "pkg"
    assert {path.name for path in out.iterdir()} == {
        "tiny-q8_0.gguf", "tiny-f16.gguf", "Modelfile", "Modelfile.f16", "chat.sh", "chat.ps1", "README.md",
        "manifest.json",
    }  # fmt: skip
    for path in ggufs:
        assert (out / path.name).read_bytes() == path.read_bytes()
    found = manifest(out)
    assert (found["schema"], found["name"]) == (1, "pkg")
    assert [(model["file"], model["quant"]) for model in found["models"]] == [
        ("tiny-q8_0.gguf", "q8_0"),
        ("tiny-f16.gguf", "f16"),
    ]
    assert found["chat"]["template"] == "llama-3"
    assert (found["chat"]["system"], found["chat"]["parameters"]) == (
        "Be brief.",
        {"top_p": "0.9", "temperature": "0.2"},
    )
    assert found["chat"]["stops"] == ["<|eot_id|>"]
    assert "FROM ./tiny-q8_0.gguf" in (out / "Modelfile").read_text(encoding="utf-8")
    assert "FROM ./tiny-f16.gguf" in (out / "Modelfile.f16").read_text(encoding="utf-8")
    for entry in found["files"]:
        assert hashlib.sha256((out / entry["file"]).read_bytes()).hexdigest() == entry["sha256"]
    assert str(tmp_path) not in (out / "manifest.json").read_text(encoding="utf-8")
    assert list(tmp_path.iterdir()) == [out]


def test_the_sums_are_those_of_the_tensors(ggufs: tuple[Path, Path], tmp_path: Path) -> None:
    path = ggufs[1]
    header, data = read_header(path), path.read_bytes()
    (model,) = manifest(package((path,), tmp_path / "pkg"))["models"]
    assert model["size"] == len(data)
    assert model["tensors"].keys() == header.tensors.keys()
    for name, info in header.tensors.items():
        start = header.data_offset + info.offset
        raw = data[start : start + info.type.nbytes(info.shape)]
        assert model["tensors"][name] == {"type": info.type.label, "sha256": hashlib.sha256(raw).hexdigest()}


def test_it_is_the_package_that_build_makes(checkpoint: Maker, tmp_path: Path) -> None:
    recipe = Recipe(checkpoint("llama3-untied", layers=1), (), ("q8_0",), tmp_path / "a" / "it", "it", system="Hi")
    built = build(recipe, verify=False).folder
    made = package((built / "it-q8_0.gguf",), tmp_path / "b" / "it", system="Hi")
    for name in ("chat.sh", "chat.ps1"):
        assert (made / name).read_bytes() == (built / name).read_bytes()
    commands = [
        [line for line in (folder / "Modelfile").read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
        for folder in (made, built)
    ]
    assert commands[0] == commands[1]  # the comment names the base, which a GGUF file does not know
    ours, theirs = manifest(made), manifest(built)
    assert ours["chat"] == theirs["chat"]
    tensors = [
        {name: entry["sha256"] for name, entry in each["models"][0]["tensors"].items()} for each in (ours, theirs)
    ]
    assert tensors[0] == tensors[1]


def test_where_links_are_not_possible_the_file_is_copied(
    ggufs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", refuse)
    out = package((ggufs[1],), tmp_path / "pkg")
    assert (out / ggufs[1].name).read_bytes() == ggufs[1].read_bytes()
    assert (out / ggufs[1].name).stat().st_ino != ggufs[1].stat().st_ino


def test_a_link_to_a_gguf_is_followed(ggufs: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "alias.gguf").symlink_to(ggufs[1])
    out = package((tmp_path / "alias.gguf",), tmp_path / "pkg")
    assert not (out / "alias.gguf").is_symlink()
    assert (out / "alias.gguf").read_bytes() == ggufs[1].read_bytes()


def test_an_existing_folder(ggufs: tuple[Path, Path], tmp_path: Path) -> None:
    package((ggufs[1],), tmp_path / "pkg")
    with pytest.raises(OutputError, match="already exists"):
        package((ggufs[1],), tmp_path / "pkg")
    assert (package((ggufs[1],), tmp_path / "pkg", overwrite=True) / "Modelfile").is_file()


def test_two_files_of_one_name(ggufs: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    twin = tmp_path / "other" / ggufs[1].name
    twin.write_bytes(ggufs[1].read_bytes())
    with pytest.raises(OutputError, match="same name"):
        package((ggufs[1], twin), tmp_path / "pkg")


def test_files_that_are_no_models(ggufs: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    with pytest.raises(GGUFError, match="not a GGUF file"):
        package((tmp_path / "x.gguf",), tmp_path / "pkg")
    with pytest.raises(GGUFError, match="no such file"):
        package((tmp_path / "y.gguf",), tmp_path / "pkg")
    empty: list[TensorInfo] = []
    (tmp_path / "x.gguf").write_bytes(encode_header([string("general.architecture", "llama")], empty))
    with pytest.raises(QuantkitError):
        package((tmp_path / "x.gguf",), tmp_path / "pkg")
    assert not (tmp_path / "pkg").exists()


def test_a_model_without_a_chat_template(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "x.gguf", Tiny(template=None))
    with pytest.raises(ChatFormatError, match=r"x\.gguf: the file has no chat template") as caught:
        package((path,), tmp_path / "pkg")
    assert "quantkit build MODEL --template NAME" in caught.value.hint
    # A named one would not be in the file, and llama.cpp takes the file's.
    with pytest.raises(ChatFormatError, match="contains a different chat template than llama-3"):
        package((path,), tmp_path / "pkg", template="llama-3")


def test_a_broken_chat_template_is_replaced_by_a_build_and_not_here(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "x.gguf", Tiny(template="{% for message in messages %}"))
    with pytest.raises(ChatFormatError, match=r"x\.gguf: the chat template") as refused:
        package((path,), tmp_path / "pkg")
    assert refused.value.hint.startswith("build the file again from its checkpoint")
    with pytest.raises(ChatFormatError, match="contains a different chat template than llama-3") as refused:
        package((path,), tmp_path / "pkg", template="llama-3")
    assert refused.value.hint.startswith("build the file again from its checkpoint")


def test_a_stop_that_llama_cpp_would_run_past(tmp_path: Path) -> None:
    template = "{% for message in messages %}<|done|>{{ message['content'] }}<eos>{% endfor %}"
    generation = "{% if add_generation_prompt %}<|done|>{% endif %}"
    path = write_tiny_gguf(
        tmp_path / "x.gguf",
        Tiny(
            template=template.replace("<|done|>", "[{{ message['role'] }}]")
            + generation.replace("<|done|>", "[assistant]")
        ),
    )
    with pytest.raises(ChatFormatError, match=r"'<eos>' ends a turn, but llama\.cpp would not stop at it"):
        package((path,), tmp_path / "pkg")


def test_parameters_are_checked_first(ggufs: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(QuantkitError, match="temprature"):
        package((ggufs[1],), tmp_path / "pkg", parameters=(("temprature", "1"),))
    assert list(tmp_path.iterdir()) == []


def test_files_of_two_models(ggufs: tuple[Path, Path], checkpoint: Maker, tmp_path: Path) -> None:
    other = convert(checkpoint("llama3-untied", layers=2), tmp_path / "other.gguf")
    with pytest.raises(GGUFError, match=r"other\.gguf: its list of tensors differs from that of .*tiny-f16\.gguf"):
        package((ggufs[0], other), tmp_path / "pkg")
    assert not (tmp_path / "pkg").exists()


def test_the_package_is_not_written_over_its_file(ggufs: tuple[Path, Path], tmp_path: Path) -> None:
    copy = tmp_path / "x.gguf"
    copy.write_bytes(ggufs[0].read_bytes())
    with pytest.raises(OutputError, match=r"x\.gguf"):
        package((copy,), copy, overwrite=True)
    assert copy.read_bytes() == ggufs[0].read_bytes()
