"""What a new user types first: each refusal says what the thing is, and what to type instead."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from quantkit.cli.main import COMMANDS, main
from quantkit.cli.options import json_option
from quantkit.cli.output import print_json
from quantkit.errors import HubError, VerificationError
from quantkit.ggml.types import FTYPES, ftype_name
from quantkit.hub.source import HubId, parse_source
from quantkit.system.did_you_mean import choose_hint, close_names, did_you_mean

Maker = Callable[..., Path]

# What was typed; what the error says; the hint. {name} is a file or folder of the fixture below.
TYPED = {
    "type without separators": ("build {model} --quant q4km", "unknown quantization type", "did you mean q4_k_m?"),
    "another program's type": ("build {model} --quant fp16", "unknown quantization type", "did you mean f16?"),
    "no type at all": ("build {model} --quant zzz", "unknown quantization type", "use one of: f32, f16, q4_0, "),
    "two types": ("build {model} --quant q4_0,q8_0", "unknown", "one type at a time: --quant q4_0 --quant q8_0"),
    "tensor type": ("build {model} --output-tensor-type q6k", "cannot be written", "did you mean q6_K?"),
    "chat format": ("build {model} --template chatmll", "no chat format named 'chatmll'", "did you mean chatml?"),
    "parameter": ("build {model} --param temprature=1", "unknown Ollama parameter", "did you mean: temperature?"),
    "Ollama's name": ("build llama3:8b", "looks like the name of a model", "give the Hugging Face checkpoint"),
    "no name": ("build {empty}", "config.json is missing", "give the folder of a Hugging Face model"),
    "archive": ("build {zip} -o {out}", "this is a file, not a checkpoint folder", "unpack it first"),
    "archive here": ("build model.zip", "model.zip: this is a file", "unpack it first"),
    "config": ("build {model}/config.json", "this is a file", "give the folder {model}"),
    "web address": ("build https://example.org/x", "not the address of a model", "download it and give its folder"),
    "adapter: GGUF": ("build {model} --adapter {gguf}", "GGUF file, not an adapter", "give the folder with adapter_c"),
    "adapter: archive": ("build {model} --adapter {zip}", "this is a file, not an adapter's", "unpack it first"),
    "adapter: model": ("build {model} --adapter {model}", "this is a model, not an adapter", "quantkit build {model}"),
    "adapter: file": ("build {model} --adapter {adapter}/adapter_config.json", "a file", "give the folder {adapter}"),
    "quantize": ("quantize {model} -o x.gguf --quant q4_0", "this is a checkpoint", "quantkit build {model} --quant"),
    "package": ("package {model} -o {out}", "this is a checkpoint", "quantkit build {model} --quant q4_0 -o DIR"),
    "package: folder": ("package {folder} -o {out}", "this is a folder, not a GGUF file", "give a file in it: {gguf}"),
    "chat": ("chat {model}", "not a folder made by quantkit build", "quantkit build {model} -o DIR"),
    "verify": ("verify {gguf}", "this is a file, not a package", "quantkit smoke {gguf}"),
    "ollama": ("ollama create {gguf}", "this is a GGUF file", "quantkit package {gguf} -o DIR"),
    "demo": ("demo {folder}", "already exists", "choose another output path, or pass --overwrite"),
}  # fmt: skip
# Wrong usage: exit code 2.
USAGE = {
    "command": ("biuld", "there is no command 'biuld'; did you mean build?", "quantkit --help"),
    "no command": ("xyz", "there is no command 'xyz'", "quantkit --help"),
    "help of none": ("help biuld", "did you mean build?", "quantkit --help"),
    "option": ("build --quannt q4_0", "'--quannt'. Did you mean '--quant'?", "quantkit build --help"),
    "choice": ("build x --outtype f23", "'f23' is not one of", "quantkit build --help"),
    "inner command": ("ollama creat x", "Did you mean 'create'?", "quantkit ollama --help"),
}


@pytest.fixture(scope="module")
def things(checkpoint: Maker, adapter: Maker, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What a person may have at hand."""
    from quantkit.jobs.convert import convert

    here = tmp_path_factory.mktemp("things")
    for name in ("folder", "empty"):
        (here / name).mkdir()
    with zipfile.ZipFile(here / "model.zip", "w") as archive:
        archive.writestr("config.json", "{}")
    model = checkpoint("llama3-untied", layers=1)
    gguf = convert(model, here / "folder" / "tiny.gguf")
    return {
        "model": model, "adapter": adapter("q-and-v"), "gguf": gguf, "folder": here / "folder", "empty": here / "empty",
        "zip": here / "model.zip", "out": here / "out",
    }  # fmt: skip


def typed(line: str, capsys: pytest.CaptureFixture[str]) -> tuple[object, str, list[str]]:
    with pytest.raises(SystemExit) as caught:
        main(line.split())
    captured = capsys.readouterr()
    return caught.value.code, captured.out, captured.err.splitlines()


@pytest.mark.parametrize("name", TYPED)
def test_the_hint_leads_on(
    name: str, things: dict[str, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(things["zip"].parent)
    line, said, hint = (text.format_map(things) for text in TYPED[name])
    code, out, (*_, error, last) = typed(line, capsys)
    assert (code, out) == (1, "")
    assert error.startswith("error: ")
    assert said in error
    assert last.startswith("hint: ")
    assert hint in last
    assert not things["out"].exists()


@pytest.mark.parametrize("name", USAGE)
def test_wrong_usage_looks_like_other_errors(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    line, said, hint = USAGE[name]
    code, out, (error, last) = typed(line, capsys)
    assert (code, out, last) == (2, "", f"hint: {hint}")
    assert error.startswith("error: ")
    assert said in error


@pytest.mark.parametrize("line", ["help", "help build", "help ollama"])
def test_help_is_a_command(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = typed(line, capsys)
    assert (code, err) == (0, [])
    assert out == typed(" ".join([*line.split()[1:], "--help"]), capsys)[1]


def test_an_error_as_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, err = typed(f"inspect {tmp_path / 'none'} --json", capsys)
    hint = "give a model folder, an adapter folder, a package or a .gguf file"
    said = {"kind": "QuantkitError", "message": f"{tmp_path / 'none'}: no such file or folder", "hint": hint}
    assert (code, json.loads(out)) == (1, {"schema": 1, "error": said})
    assert err == [f"error: {said['message']}", f"hint: {hint}"]


def test_a_result_as_json_is_followed_by_no_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    @click.command("doctor")
    @json_option
    def failing(as_json: bool) -> None:
        print_json({"passed": False})
        raise VerificationError("a check failed")

    monkeypatch.setattr("quantkit.cli.doctor.command", failing)
    code, out, err = typed("doctor --json", capsys)
    assert (code, json.loads(out)) == (3, {"passed": False})
    assert err[0] == "error: a check failed"


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("https://huggingface.co/Qwen/X", HubId("Qwen/X")),
        ("http://huggingface.co/Qwen/X/", HubId("Qwen/X")),
        ("hf.co/Qwen/X", HubId("Qwen/X")),
        ("https://hf-mirror.com/Qwen/X?a=b#c", HubId("Qwen/X")),
        ("https://huggingface.co/Qwen/X/tree/main", HubId("Qwen/X")),
        ("https://huggingface.co/Qwen/X/blob/v1.0/config.json", HubId("Qwen/X", "v1.0")),
        ("https://www.modelscope.cn/models/Qwen/X", HubId("Qwen/X", hub="modelscope")),
        ("https://modelscope.cn/models/Qwen/X/files", HubId("Qwen/X", hub="modelscope")),
    ],
)
def test_a_hubs_web_address_is_its_id(address: str, found: HubId) -> None:
    assert parse_source(address) == found


@pytest.mark.parametrize(
    "address",
    ["https://huggingface.co/datasets/a/b", "https://huggingface.co/Qwen", "https://x.org/Qwen/X", "hf.co/a/b:Q4_0"],
)
def test_other_addresses_are_refused(address: str) -> None:
    with pytest.raises(HubError, match="is not the address of a model"):
        parse_source(address)


def test_a_folder_comes_before_an_address(tmp_path: Path) -> None:
    (tmp_path / "hf.co" / "a" / "b").mkdir(parents=True)
    assert parse_source("hf.co/a/b", tmp_path) == tmp_path / "hf.co" / "a" / "b"


def test_what_is_suggested_is_there() -> None:
    from quantkit.ggml.types import _ELSEWHERE

    assert all(ftype_name(name) in FTYPES for name in _ELSEWHERE.values())
    assert not _ELSEWHERE.keys() & FTYPES.keys()


def test_close_names() -> None:
    assert close_names("Q4-K.M", FTYPES) == ["q4_k_m"]
    assert did_you_mean("zzz", COMMANDS) == ""
    assert did_you_mean("q9_0", FTYPES) == ""
    assert choose_hint("zzz", ("a", "b")) == "use one of: a, b"


def test_a_name_for_no_file_is_told_apart_from_a_path_that_is_none(tmp_path: Path) -> None:
    from quantkit.errors import QuantkitError
    from quantkit.jobs.model_name import model_name

    folder = tmp_path / os.fsdecode(b"a:b")
    folder.mkdir()
    (folder / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(QuantkitError, match="name 'a:b' cannot be part of a file name"):
        model_name("", folder, ())
    with pytest.raises(QuantkitError, match="name 'x/y' cannot be part"):
        model_name("x/y", tmp_path / "none", ())
