"""Metadata of GGUF files changed: what is written, what stays, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import pytest

import quantkit
from quantkit.cli.main import main
from quantkit.errors import GGUFError, OutputError, QuantkitError
from quantkit.files import in_place
from quantkit.gguf.header import encode_header, read_header
from quantkit.gguf.kv import string, u32
from quantkit.gguf.model import read_model
from quantkit.jobs import edit as edit_module
from quantkit.jobs.edit import edit
from tests.unit.tiny_gguf import ANSWER, LLAMA_3, vocabulary, write_tiny_gguf


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A model named "abc", with a trained context of 512 tokens."""
    path = write_tiny_gguf(tmp_path / "m.gguf")
    edit(path, name="abc")
    return path


def values(path: Path) -> dict[str, Any]:
    """The metadata as the gguf library reads it."""
    return {key: found.contents() for key, found in gguf.GGUFReader(path).fields.items() if not key.startswith("GGUF.")}


def tensors(path: Path) -> dict[str, bytes]:
    return {tensor.name: tensor.data.tobytes() for tensor in gguf.GGUFReader(path).tensors}


def test_in_place_where_it_fits(file: Path) -> None:
    before, weights, inode = file.read_bytes(), tensors(file), file.stat().st_ino
    done = edit(file, values={"llama.context_length": 4096}, name="xyz")
    assert (done.written, file.stat().st_ino) == ("in place", inode)
    assert [(change.key, change.old and change.old.value, change.new and change.new.value) for change in done.changes] \
        == [("llama.context_length", 512, 4096), ("general.name", "abc", "xyz")]  # fmt: skip
    found = values(file)
    assert (found["llama.context_length"], found["general.name"]) == (4096, "xyz")
    assert tensors(file) == weights
    edit(file, values={"llama.context_length": 512}, name="abc")
    assert file.read_bytes() == before


def begun(file: Path, monkeypatch: pytest.MonkeyPatch, changed: int) -> bytes:
    """Let there be what a kill leaves when so many bytes of the file are changed; return what it is to become."""
    whole = file.with_name("whole.gguf")
    whole.write_bytes(file.read_bytes())
    edit(whole, name="xyz")
    write_at, left = in_place.write_at, dict[Path, bytes]()

    def torn(fd: int, view: memoryview, offset: int) -> None:
        if os.path.samestat(os.fstat(fd), os.stat(file)):
            old = file.read_bytes()[offset : offset + len(view)]
            ends = [at + 1 for at in range(len(view)) if old[at] != view[at]]
            write_at(fd, view[: [0, *ends][changed]], offset)
            left.update({path: path.read_bytes() for path in file.parent.iterdir()})
        write_at(fd, view, offset)

    with monkeypatch.context() as patch:
        patch.setattr(in_place, "write_at", torn)
        edit(file, name="xyz")
    for path, content in left.items():
        path.write_bytes(content)
    return whole.read_bytes()


@pytest.mark.parametrize("changed", [0, 1, 2, 3])
def test_what_a_kill_divides_is_finished_by_whoever_reads_it(
    file: Path, monkeypatch: pytest.MonkeyPatch, changed: int
) -> None:
    old = file.read_bytes()
    new = begun(file, monkeypatch, changed)
    beside = file.with_name(".m.gguf.quantkit-edit")
    assert beside.is_file()
    assert sum(now != then for now, then in zip(file.read_bytes(), old, strict=True)) == changed
    assert read_model(file).value("general.name") == "xyz"
    assert file.read_bytes() == new
    assert not beside.exists()


def test_what_was_begun_in_another_file_or_not_wholly_is_not_written(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(file, monkeypatch, 2)
    beside = file.with_name(".m.gguf.quantkit-edit")
    kept = beside.read_bytes()
    other = write_tiny_gguf(file.with_name("other.gguf")).read_bytes()
    for content, left in ((other, kept), (other, kept[:-1]), (other, b"[]\n"), (other, b"")):
        file.write_bytes(content)
        beside.write_bytes(left)
        read_model(file)
        assert file.read_bytes() == content
        assert not beside.exists()


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), KeyboardInterrupt()], ids=["disk", "Ctrl-C"])
def test_what_fails_in_the_middle_leaves_the_old_header(
    file: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    old, write_at = file.read_bytes(), in_place.write_at
    failed = []

    def failing(fd: int, view: memoryview, offset: int) -> None:
        if os.path.samestat(os.fstat(fd), os.stat(file)) and not failed:
            failed.append(offset)
            write_at(fd, view[:40], offset)
            raise error
        write_at(fd, view, offset)

    monkeypatch.setattr(in_place, "write_at", failing)
    with pytest.raises((OutputError, KeyboardInterrupt)):
        edit(file, name="xyz")
    assert failed
    assert file.read_bytes() == old
    assert os.listdir(file.parent) == [file.name]


@pytest.mark.parametrize("name", ["xyz", "n" * 100])
def test_a_file_that_another_run_changes_is_left_alone(file: Path, name: str) -> None:
    old = file.read_bytes()
    with in_place.alone(file), pytest.raises(OutputError, match="another run is changing it"):
        edit(file, name=name)
    assert file.read_bytes() == old
    edit(file, name=name)


def test_a_file_that_is_replaced_while_it_is_read_gives_no_mixture(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other, copy = write_tiny_gguf(file.with_name("other.gguf")), edit_module._copy

    def replaced(*arguments: Any) -> None:
        if other.exists():
            other.replace(file)
        copy(*arguments)

    new = other.read_bytes()
    monkeypatch.setattr(edit_module, "_copy", replaced)
    with pytest.raises(GGUFError, match="changed while it was read"):
        edit(file, name="n" * 100)
    assert file.read_bytes() == new
    assert os.listdir(file.parent) == [file.name]


def test_what_a_killed_rewrite_left_is_removed_where_nothing_is_to_be_done(file: Path) -> None:
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    process.wait()
    left = file.with_name(f".m.gguf.quantkit-{process.pid}")
    left.mkdir()
    assert edit(file, name="abc", dry_run=True).written == "unchanged"
    assert left.exists()
    assert edit(file, name="abc").written == "unchanged"
    assert os.listdir(file.parent) == [file.name]


def test_padding_is_used(file: Path) -> None:
    """A longer name fits as long as the padding does, and the tensors stay where they are."""
    offset = read_header(file).data_offset
    written = {edit(file, name="n" * length).written for length in range(4, 64)}
    assert written == {"in place", "rewritten"}
    assert read_header(file).data_offset > offset


def test_rewritten_once_where_it_does_not_fit(file: Path) -> None:
    file.chmod(0o640)
    weights, old = tensors(file), values(file)
    template = file.with_name("t.jinja")
    template.write_text(LLAMA_3.replace("<|eot_id|>", "<|done|>"), encoding="utf-8")
    reporter = quantkit.Reporter()
    done = edit(
        file, template=template, values=[("general.tags", '["a", "你好"]')], remove="general.name", reporter=reporter
    )
    assert (done.written, done.nbytes) == ("rewritten", file.stat().st_size)
    found = values(file)
    assert found.pop("tokenizer.chat_template") == template.read_text(encoding="utf-8")
    assert found.pop("tokenizer.ggml.eot_token_id") == vocabulary().index("<|done|>")  # so that llama.cpp stops
    assert reporter.notes == ["<|done|> ends a turn but is not the model's EOS token: it is written as eot_token_id"]
    assert found.pop("general.tags") == ["a", "你好"]
    assert found == {key: old[key] for key in old if key not in ("tokenizer.chat_template", "general.name")}
    assert tensors(file) == weights
    assert file.stat().st_mode & 0o777 == 0o640
    assert sorted(os.listdir(file.parent)) == ["m.gguf", "t.jinja"]


def test_a_template_that_the_vocabulary_cannot_end_is_refused(file: Path) -> None:
    before = file.read_bytes()
    with pytest.raises(quantkit.ChatFormatError, match=r"'<\|im_end\|>' is not a token of this model"):
        edit(file, template="chatml")
    with pytest.raises(quantkit.ChatFormatError, match=r"m\.gguf: "):
        edit(file, values={"tokenizer.chat_template": "{{"})
    assert file.read_bytes() == before


def test_another_file(file: Path) -> None:
    before, out = file.read_bytes(), file.with_name("new.gguf")
    assert edit(file, name="a much longer name than it had before", out=out).written == "copied"
    assert file.read_bytes() == before
    assert values(out) == {**values(file), "general.name": "a much longer name than it had before"}
    assert tensors(out) == tensors(file)
    with pytest.raises(OutputError, match="already exists"):
        edit(file, name="x", out=out)
    with pytest.raises(OutputError, match="contains the input"):
        edit(file, name="x", out=file, overwrite=True)


def test_types_are_kept_and_new_entries_have_those_of_llama_cpp(file: Path) -> None:
    asked = {
        "llama.rope.freq_base": 1e6,
        "llama.rope.scaling.type": "yarn",
        "llama.rope.scaling.original_context_length": 512,
        "general.sampling.temp": 0.2,
        "general.sampling.top_k": 40,
        "tokenizer.ggml.padding_token_id": 3,
        "tokenizer.ggml.add_eos_token": False,
        "general.languages": ["zh"],
        "mine.note": "7",
    }
    done = edit(file, values=asked)
    assert {change.key: change.type for change in done.changes} == {
        "llama.rope.freq_base": "float32",
        "llama.rope.scaling.type": "string",
        "llama.rope.scaling.original_context_length": "uint32",
        "general.sampling.temp": "float32",
        "general.sampling.top_k": "int32",
        "tokenizer.ggml.padding_token_id": "uint32",
        "tokenizer.ggml.add_eos_token": "bool",
        "general.languages": "array of string",
        "mine.note": "string",
    }
    with pytest.raises(GGUFError, match=r"freq_base is 'fast'; expected a number \(float32\)"):
        edit(file, values={"llama.rope.freq_base": "fast"})
    assert edit(file, values=asked).written == "unchanged"


REFUSED = [
    ("general.architecture", "qwen2", "cannot be changed: it says what llama.cpp computes"),
    ("general.alignment", "64", "cannot be changed: the tensors lie at multiples of it"),
    ("general.quantization_version", "3", "cannot be changed: it says how the tensors are encoded"),
    ("general.file_type", "2", "cannot be changed: it says how the tensors are encoded"),
    ("llama.block_count", "2", "cannot be changed: llama.cpp computes the model with it"),
    ("llama.attention.head_count", "8", "cannot be changed: llama.cpp computes the model with it"),
    ("tokenizer.ggml.tokens", "[]", "cannot be changed: it is a part of the vocabulary"),
    ("tokenizer.ggml.model", "llama", "cannot be changed: it is a part of the vocabulary"),
    ("split.count", "2", "cannot be changed: it says which files belong together"),
    ("tokenizer.ggml.pre", "none", "which quantkit does not know"),
    ("tokenizer.ggml.eos_token_id", "99999", "outside the vocabulary"),
    ("tokenizer.ggml.eos_token_id", "-1", "holds"),
    ("tokenizer.ggml.add_bos_token", "yes", "expected true or false"),
    ("llama.context_length", "0", "expected a number above 0"),
    ("llama.context_length", "8k", "expected a whole number"),
    ("llama.context_length", "99999999999", "holds"),
    ("llama.rope.freq_base", "1e99", "holds"),
    ("llama.rope.freq_base", "nan", "expected a number"),
    ("llama.rope.scaling.type", "ntk", "expected one of none, linear, yarn, longrope"),
    ("general.tags", "a", "expected a JSON list"),
    ("general.tags", "[1]", "expected a text in quotes"),
    ("general.name", "\ud800", "not valid Unicode"),
    ("", "x", "is not a key"),
]


@pytest.mark.parametrize(("key", "value", "why"), REFUSED)
def test_refused(key: str, value: str, why: str, file: Path) -> None:
    before = file.read_bytes()
    with pytest.raises(GGUFError, match=why):
        edit(file, values=[(key, value)])
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"remove": "general.none"}, "there is no general.none"),
        ({"remove": "llama.context_length"}, "cannot be removed"),
        ({"remove": "tokenizer.ggml.eos_token_id"}, "cannot be removed"),
        ({"remove": "llama.block_count"}, "cannot be changed"),
        ({"name": "a", "values": {"general.name": "b"}}, "given twice"),
        ({"name": "a", "remove": "general.name"}, "both set and removed"),
        ({"template": "llama-3", "values": {"tokenizer.chat_template": "x"}}, "given twice"),
        ({}, "nothing is to be changed"),
    ],
)
def test_refused_together(arguments: dict[str, Any], why: str, file: Path) -> None:
    with pytest.raises(QuantkitError, match=why):
        edit(file, **arguments)


def test_a_file_with_another_name_keeps_its_contents(file: Path) -> None:
    """A package may have a hard link to the file, and a download's only copy is behind a symbolic one."""
    other, link = file.with_name("other.gguf"), file.with_name("link.gguf")
    other.hardlink_to(file)
    before = file.read_bytes()
    assert edit(file, name="xyz").written == "rewritten"
    assert (values(file)["general.name"], other.read_bytes()) == ("xyz", before)
    link.symlink_to(other)
    with pytest.raises(OutputError, match="is a link to"):
        edit(link, name="xyz")


def test_the_file_of_a_package_is_refused(file: Path) -> None:
    folder = quantkit.package(file, file.with_name("package"))
    with pytest.raises(OutputError, match=r"belongs to the package .* has its sha256") as caught:
        edit(folder / file.name, name="xyz")
    assert "quantkit package OUT.gguf" in caught.value.hint
    with pytest.raises(OutputError, match="belongs to the package"):
        edit(file, name="xyz", out=folder / file.name, overwrite=True)
    assert quantkit.verify(folder, sha256=True).report.passed
    beside = folder / "beside.gguf"
    edit(folder / file.name, name="xyz", out=beside)
    assert edit(beside, name="xyy").written == "in place"


def test_a_split_model(file: Path) -> None:
    first = quantkit.quantize(file, file.with_name("s.gguf"), quant="f16", split_max_size=30_000)
    parts = sorted(file.parent.glob("s-*.gguf"))
    before = [part.read_bytes() for part in parts]
    assert len(parts) > 2
    assert edit(first, name="xyz").written == "in place"
    assert values(first)["general.name"] == "xyz"
    assert edit(first, name="abc" * 100).written == "rewritten"
    assert [part.read_bytes() for part in parts[1:]] == before[1:]
    edit(first, name="abc", out=file.with_name("copy.gguf"))
    assert [part.read_bytes() for part in sorted(file.parent.glob("copy-*.gguf"))] == before
    with pytest.raises(GGUFError, match="this is part 2"):
        edit(parts[1], name="xyz")


@pytest.mark.parametrize("name", ["other", "longer" * 20])
def test_a_header_that_ends_before_its_padding(tmp_path: Path, name: str) -> None:
    """As of a first part without tensors that some program did not pad: there is nothing behind to be copied."""
    path, out = tmp_path / "m.gguf", tmp_path / "out.gguf"
    path.write_bytes(
        encode_header([string("general.architecture", "llama"), string("general.name", "older")], []).rstrip(b"\0")
    )
    edit(path, name=name, out=out)
    assert edit(path, name=name).nbytes == path.stat().st_size
    assert path.read_bytes() == out.read_bytes()
    assert values(path) == {"general.architecture": "llama", "general.name": name}


@pytest.mark.parametrize("length", [240, 255])
def test_a_name_so_long_that_no_other_can_be_beside_it(tmp_path: Path, length: int) -> None:
    """Such a file is read like every other; it is not changed where it lies, which is said."""
    path = tmp_path / f"{'m' * (length - 5)}.gguf"
    path.write_bytes(encode_header([string("general.architecture", "llama"), string("general.name", "older")], []))
    assert read_model(path).value("general.name") == "older"
    edit(path, name="other", out=tmp_path / "out.gguf")
    with pytest.raises(OutputError, match="name too long"):
        edit(path, name="newer")
    assert values(path)["general.name"] == "older"
    assert {found.name for found in tmp_path.iterdir()} == {path.name, "out.gguf"}


def test_an_alignment_of_its_own(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "m.gguf")
    header, data = read_header(path), path.read_bytes()
    metadata = [*header.metadata.values(), u32("general.alignment", 4096)]
    offset, infos = 0, []
    weights = b""
    for info in header.tensors.values():
        start = header.data_offset + info.offset
        piece = data[start : start + info.type.nbytes(info.shape)]
        infos.append(replace(info, offset=offset))
        weights += piece.ljust(-(-len(piece) // 4096) * 4096, b"\0")
        offset = len(weights)
    path.write_bytes(encode_header(metadata, infos, 4096) + weights)
    expected = tensors(path)
    assert edit(path, name="abc" * 100).written == "in place"
    assert edit(path, name="abc" * 2000).written == "rewritten"
    assert tensors(path) == expected
    assert read_header(path).data_offset % 4096 == 0


def test_an_edited_file_chats(file: Path) -> None:
    edit(file, name="Another", values={"llama.context_length": 256, "tokenizer.ggml.eot_token_id": 262})
    with quantkit.Chat(file) as chat:
        assert chat.answer("Hi") == ANSWER


def test_the_command(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*args: object) -> str:
        with pytest.raises(SystemExit) as caught:
            main(["edit", str(file), *map(str, args)])
        shown = capsys.readouterr()
        assert caught.value.code == 0, shown.err
        return shown.out

    before = file.read_bytes()
    shown = run("--set", "llama.context_length=64", "--remove", "general.name", "--dry-run")
    assert shown.splitlines()[:6] == [
        *("llama.context_length  uint32", "  old  512", "  new  64"),
        *("general.name  string", '  old  "abc"', "  new  (none)"),
    ]
    assert shown.splitlines()[6].startswith(f"{file}  would be ")
    assert file.read_bytes() == before
    found = json.loads(run("--name", "xyz", "--json"))
    assert found == {
        "schema": 1,
        "file": str(file),
        "changes": [{"key": "general.name", "type": "string", "old": "abc", "new": "xyz"}],
        "written": "in place",
        "dry_run": False,
        "size": read_header(file).data_offset,
        "notes": [],
    }
