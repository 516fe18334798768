"""Windows' paths: a drive's colon and backslashes mean nothing else, and commands are quoted for its shells."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path, PureWindowsPath
from typing import Any

import pytest

from quantkit.errors import HubError, QuantkitError
from quantkit.gguf.lora import ScaledLora, parse_lora
from quantkit.hub.matrix import HubMatrix, parse_matrix
from quantkit.hub.source import HubId, parse_source
from quantkit.hub.target import parse_target
from quantkit.hub.web_address import web_address
from quantkit.jobs.argument_kinds import ADAPTERS, LORAS, MATRIX, PATH, SOURCE, TEMPLATE
from quantkit.jobs.kind import Argument, Kind
from quantkit.jobs.model_name import model_name
from quantkit.model.base_names import base_notes
from quantkit.ollama.modelfile import Command, parse_modelfile, print_modelfile
from quantkit.ollama.read_modelfile import source_path
from quantkit.system import shell

PATHS = (r"C:\模型\qwen", "C:/models/qwen", r"D:\my models\Qwen 7B", r"C:qwen", r"models\qwen", r"\\server\模型\qwen")


@pytest.mark.parametrize("text", PATHS)
def test_a_path_is_not_an_id(text: str) -> None:
    assert parse_source(text) == Path(text)
    assert parse_matrix(text) == Path(text)
    assert web_address(text) is None
    with pytest.raises(HubError, match="is not a place to push to"):
        parse_target(text)


def test_an_id_is_not_a_path() -> None:
    assert parse_source("Qwen/Qwen-7B-Chat") == HubId("Qwen/Qwen-7B-Chat")
    assert parse_matrix("me/matrices:im.gguf") == HubMatrix(HubId("me/matrices"), "im.gguf")


@pytest.mark.parametrize("text", PATHS)
def test_only_a_number_behind_the_last_colon_is_a_scale(text: str) -> None:
    file = rf"{text}\lora.gguf"
    assert parse_lora(file) == ScaledLora(Path(file))
    assert parse_lora(f"{file}:0.5") == ScaledLora(Path(file), 0.5)
    assert parse_lora(str(ScaledLora(Path(file), 0.25))) == ScaledLora(Path(file), 0.25)


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        (PATH, lambda found: found),
        (SOURCE, lambda found: found),
        (MATRIX, lambda found: found),
        (TEMPLATE, lambda found: PureWindowsPath(found)),
        (ADAPTERS, lambda found: found[0].source),
        (LORAS, lambda found: found[0].path),
    ],
)
def test_a_drive_replaces_the_folder_of_the_recipe(kind: Kind, path: Callable[[Any], Any]) -> None:
    base: Any = PureWindowsPath(r"D:\jobs")
    whole = r"C:\模型\my model.gguf"
    assert path(kind.reader(Argument("x", base=base), whole)) == PureWindowsPath(whole)
    if kind is not TEMPLATE:  # a name of a format, unless such a file is there
        below = path(kind.reader(Argument("x", base=base), r"模型\one.gguf"))
        assert below == PureWindowsPath(r"D:\jobs\模型\one.gguf")


@pytest.mark.parametrize(
    "name", [r"C:\模型\qwen", "C:qwen", r"models\qwen", "a?b", "CON", "nul.v2", "com1", "a.", "a "]
)
def test_a_name_that_windows_refuses(name: str) -> None:
    assert model_name("console-nul.com1", Path("m"), ()) == "console-nul.com1"
    with pytest.raises(QuantkitError, match="cannot be part of a file name"):
        model_name(name, Path("m"), ())


@pytest.mark.parametrize("named", [r"C:\模型\Qwen2.5-7B", r"D:\models\Qwen\Qwen2.5-7B", "E:/x/Qwen2.5-7B"])
def test_a_base_that_was_trained_on_windows(named: str, tmp_path: Path) -> None:
    """adapter_config.json has the path of the training machine, whose last part is the model's name."""
    (tmp_path / "Qwen2.5-7B").mkdir()
    (tmp_path / "Other").mkdir()
    settings = {"base_model_name_or_path": named}
    assert not list(base_notes(tmp_path / "a", settings, tmp_path / "Qwen2.5-7B", {}))
    (note,) = base_notes(tmp_path / "a", settings, tmp_path / "Other", {})
    assert "was trained on Qwen2.5-7B (base_model_name_or_path)" in note


@pytest.mark.parametrize("path", [r"C:\模型\qwen.gguf", r"C:\my models\new\table.gguf", "./模 型.gguf", r".\a.gguf"])
def test_a_modelfile_has_no_escapes(path: str) -> None:
    command = Command("FROM", path)
    assert parse_modelfile(print_modelfile([command])) == (command,)
    assert parse_modelfile(f"FROM {path}\r\n") == (command,)
    folder: Any = PureWindowsPath(r"D:\pkg")
    assert source_path(folder / "Modelfile", path) == folder / path


@pytest.mark.parametrize(
    ("word", "quoted"),
    [
        (r"C:\模型\qwen", r"C:\模型\qwen"),
        ("temperature=0.2", "temperature=0.2"),
        (r"C:\my models", r'"C:\my models"'),
        ("C:\\my models\\", r'"C:\my models\\"'),
        ("it's", '"it\'s"'),
        ("a&b", '"a&b"'),
        ("hub/id@v1", '"hub/id@v1"'),  # to PowerShell @ may begin an array
        ("", '""'),
        (r"C:\$x's", r"'C:\$x''s'"),
        ("“你好”‘’", "'“你好”‘‘’’'"),
    ],
)
def test_words_for_windows_shells(word: str, quoted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shell.windows_word(word) == quoted
    monkeypatch.setattr(shell, "os", type("Windows", (), {"name": "nt"}))
    assert shell.command("quantkit", "chat", word) == f"quantkit chat {quoted}"


@pytest.mark.skipif(os.name == "nt", reason="the other shells")
def test_words_for_other_shells() -> None:
    assert shell.command("quantkit", "chat", r"C:\模型") == r"quantkit chat 'C:\模型'"
