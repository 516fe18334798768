"""Consoles and pipes of GBK, as on a Chinese Windows: what they lack is replaced, and files are UTF-8 all the same."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from tiny_gguf import ANSWER, Tiny, write_tiny_gguf

from quantkit.ollama.modelfile import parse_modelfile
from quantkit.run.prompt_input import PROMPT
from tests.support.patience import PATIENCE

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "quantkit" / "demo"
SYSTEM = "你是船长✓😀。"  # GBK has neither of the signs
# As Python is on Windows: names of files are UTF-8, and what is printed into a pipe has the machine's code page.
WINDOWS = {"PYTHONIOENCODING": "gbk", "PYTHONUTF8": "0", "LC_ALL": "C.UTF-8"}


@pytest.fixture(scope="module")
def linux(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a Linux whose locale is zh_CN.GBK, with which names of files are GBK too."""
    if shutil.which("localedef") is None:
        pytest.skip("localedef is not installed")
    folder = tmp_path_factory.mktemp("locales")
    made = subprocess.run(
        ["localedef", "-i", "zh_CN", "-f", "GBK", str(folder / "zh_CN.GBK")], capture_output=True, check=False
    )
    if not (folder / "zh_CN.GBK" / "LC_CTYPE").is_file():
        pytest.skip(f"localedef has no zh_CN.GBK: {made.stderr.decode(errors='replace')[:200]}")
    return {"LOCPATH": str(folder), "LC_ALL": "zh_CN.GBK", "PYTHONUTF8": "0", "PYTHONIOENCODING": ""}


def quantkit(
    *arguments: object, environment: Mapping[str, str], stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    words = [word if isinstance(word, bytes) else os.fsencode(str(word)) for word in arguments]
    given = {**os.environ, "PYTHONPATH": str(ROOT), "QUANTKIT_NO_HISTORY": "1", **environment}
    command = [os.fsencode(sys.executable), b"-m", b"quantkit", *words]
    done = subprocess.run(command, input=stdin, capture_output=True, check=False, env=given, timeout=PATIENCE)
    assert b"Traceback" not in done.stderr, done.stderr.decode("gbk", "replace")
    return done


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[bytes]]:
    """A package whose names have Chinese, a space and a sign that GBK lacks."""
    out = tmp_path_factory.mktemp("gbk") / "我的 模型✓"
    done = quantkit(
        "build", DEMO / "base", "--adapter", DEMO / "adapter", "--name", "小 船✓", "--system", SYSTEM,
        "--param", "temperature=0", "-o", out, environment=WINDOWS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode("gbk")
    return out, done


def test_build_prints_what_gbk_has_and_writes_everything(
    built: tuple[Path, subprocess.CompletedProcess[bytes]],
) -> None:
    folder, done = built
    printed = done.stdout.decode("gbk")
    assert "我的 模型?/小 船?-q4_0.gguf" in printed
    assert "verified: " in printed
    texts = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".gguf"}
    assert set(texts) == {"Modelfile", "README.md", "chat.ps1", "chat.sh", "manifest.json", "report.json"}
    read = {name: data.decode("utf-8") for name, data in texts.items()}
    commands = {command.keyword: command.value for command in parse_modelfile(read["Modelfile"])}
    assert (commands["FROM"], commands["SYSTEM"]) == ("./小 船✓-q4_0.gguf", SYSTEM)
    assert json.loads(read["manifest.json"])["name"] == "小 船✓"
    # Windows PowerShell 5.1 reads a script without a byte order mark in the code page; a shell needs its first line.
    assert texts["chat.ps1"].startswith(b"\xef\xbb\xbf# ")
    assert texts["chat.sh"].startswith(b"#!/bin/sh\n")
    assert "$name = '小 船✓-q4_0.gguf'" in read["chat.ps1"]
    assert "model='小 船✓-q4_0.gguf'" in read["chat.sh"]
    assert not any(text.startswith("\ufeff") for name, text in read.items() if name != "chat.ps1")


def test_json_loses_nothing(built: tuple[Path, subprocess.CompletedProcess[bytes]]) -> None:
    folder, _ = built
    done = quantkit("inspect", folder, "--json", environment=WINDOWS)
    found = json.loads(done.stdout.decode("ascii"))
    assert (done.returncode, found["name"], found["system"], found["path"]) == (0, "小 船✓", SYSTEM, str(folder))


def test_a_name_that_the_file_system_cannot_have(
    built: tuple[Path, subprocess.CompletedProcess[bytes]], linux: dict[str, str]
) -> None:
    done = quantkit("inspect", built[0], environment=linux)
    assert "小 船\\u2713-q4_0.gguf' cannot be written in gbk" in done.stderr.decode("gbk")
    assert done.stderr.endswith(b"hint: set PYTHONUTF8=1\n")
    assert done.returncode == 1
    assert quantkit("inspect", built[0], environment={**linux, "PYTHONUTF8": "1"}).returncode == 0


def test_an_error_names_what_gbk_lacks(tmp_path: Path) -> None:
    done = quantkit("inspect", tmp_path / "没有✓", environment=WINDOWS)
    message, hint = done.stderr.decode("gbk").splitlines()
    assert message == rf"error: {tmp_path / '没有'}\u2713: no such file or folder"
    assert (done.returncode, hint.startswith("hint: ")) == (1, True)
    recipe = tmp_path / "配方.toml"
    recipe.write_bytes('model = "模型"'.encode("gbk"))
    done = quantkit("build", "--recipe", recipe, environment=WINDOWS)
    assert (done.returncode, "配方.toml: not UTF-8" in done.stderr.decode("gbk")) == (1, True)


def test_answers(tmp_path: Path) -> None:
    tiny = write_tiny_gguf(tmp_path / "小✓.gguf")
    done = quantkit(
        "chat", tiny, "--param", "temperature=0", environment=WINDOWS, stdin="\ufeff/system 你好 ✓\nHi\n".encode()
    )
    assert (done.returncode, done.stdout.decode("gbk")) == (0, f"{ANSWER.replace('🙂', '?')}\n")
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "你好✓"}\n', encoding="utf-8")
    files = ("--data-file", tmp_path / "prompts.jsonl", "--predictions-file", tmp_path / "答.jsonl")
    done = quantkit("chat", tiny, *files, environment=WINDOWS)
    assert done.stdout.decode("gbk").startswith(f"{tmp_path / '答.jsonl'}  1 answers")
    line = json.loads((tmp_path / "答.jsonl").read_bytes().decode())
    assert (line["prompt"], line["answer"]) == ("你好✓", ANSWER)


def test_a_pipe_gets_utf8_and_may_bring_either(tmp_path: Path, linux: dict[str, str]) -> None:
    tiny = write_tiny_gguf(tmp_path / "tiny.gguf")
    stdin = "你好 ✓\n".encode() + "再见\r\n".encode("gbk")
    done = quantkit("chat", tiny, "--param", "temperature=0", environment=linux, stdin=stdin)
    assert (done.returncode, done.stdout.decode()) == (0, f"{ANSWER}\n" * 2)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals on Windows")
def test_a_terminal(tmp_path: Path, linux: dict[str, str]) -> None:
    from tests.support.terminal import Terminal
    from tests.support.terminal import quantkit as command

    history = tmp_path / "state" / "quantkit" / "chat_history.jsonl"
    history.parent.mkdir(parents=True)
    history.write_text('"✓😀"\n', encoding="utf-8")
    path = write_tiny_gguf(tmp_path / "tiny.gguf", Tiny())
    environment = {**linux, "XDG_STATE_HOME": str(tmp_path / "state"), "TERM": "xterm", "PYTHONPATH": str(ROOT)}
    with Terminal(command("chat", str(path), "--param", "temperature=0"), environment=environment) as terminal:
        assert terminal.comes(PROMPT), terminal.shown
        terminal.type("你好".encode("gbk") + b"\r")
        assert terminal.comes("Hi ?"), terminal.shown
        assert terminal.comes(PROMPT), terminal.shown
        terminal.type("/bye\r")
        assert terminal.ends() == 0
    assert "Traceback" not in terminal.shown
    assert [json.loads(line) for line in history.read_text(encoding="utf-8").splitlines()] == ["✓😀", "你好", "/bye"]


# Files: Python takes the machine's encoding where none is said.

_ANY = re.compile(r"open\(|read_text\(|write_text\(|TemporaryFile\(|TextIOWrapper\(|text=|universal_newlines=")
_OTHERS_OPEN = ("os", "webbrowser")


def without_encoding(source: str) -> Iterator[int]:
    """The lines that open a text in whatever encoding the machine has."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)) if _ANY.search(source) else ()
    for call in calls:
        named = {keyword.arg: keyword.value for keyword in call.keywords}
        if not {"encoding", None} & named.keys() and _takes_the_machines(call, named):
            yield call.lineno


def _takes_the_machines(call: ast.Call, named: Mapping[str | None, ast.expr]) -> bool:
    match call.func:
        case ast.Attribute(attr="read_text"):
            return not call.args
        case ast.Attribute(attr="write_text"):
            return len(call.args) < 2
        case ast.Attribute(value=ast.Name(id=owner), attr="open") if owner in _OTHERS_OPEN:
            return False
        case ast.Name(id="open") | ast.Attribute(attr="fdopen"):
            return _is_text(call, named, place=1, default="r")
        case ast.Attribute(attr="open"):
            return _is_text(call, named, place=0, default="r")
        case ast.Name(id=name) | ast.Attribute(attr=name) if name.endswith("TemporaryFile"):
            return _is_text(call, named, place=0, default="w+b")
        case ast.Name(id="TextIOWrapper") | ast.Attribute(attr="TextIOWrapper"):
            return True
        case ast.Attribute(value=ast.Name(id="subprocess")):
            return bool({"text", "universal_newlines"} & named.keys())
    return False


def _is_text(call: ast.Call, named: Mapping[str | None, ast.expr], *, place: int, default: str) -> bool:
    given = named.get("mode", call.args[place] if len(call.args) > place else ast.Constant(default))
    mode = given.value if isinstance(given, ast.Constant) else None
    return isinstance(mode, str) and "b" not in mode and set(mode) <= set("rwxat+")


def python_files() -> list[Path]:
    scripts = [path for path in (ROOT / "scripts").iterdir() if path.is_file()]
    python = [path for path in scripts if path.suffix == ".py" or b"python" in path.read_bytes().partition(b"\n")[0]]
    return [*sorted((ROOT / "quantkit").rglob("*.py")), *sorted(python)]


def test_every_text_file_has_its_encoding_said() -> None:
    files = python_files()
    assert len(files) > 500
    found = {path: [*without_encoding(path.read_text(encoding="utf-8"))] for path in files}
    assert not {path.relative_to(ROOT): lines for path, lines in found.items() if lines}


@pytest.mark.parametrize(
    ("source", "wrong"),
    [
        ("open(p)", True),
        ("open(p, 'w')", True),
        ("open(p, mode='r')", True),
        ("p.open()", True),
        ("p.open('w')", True),
        ("os.fdopen(n, 'w')", True),
        ("p.read_text()", True),
        ("p.write_text(t)", True),
        ("subprocess.run(c, text=True)", True),
        ("NamedTemporaryFile('w')", True),
        ("io.TextIOWrapper(b)", True),
        ("open(p, 'rb')", False),
        ("open(p, 'w', encoding='utf-8')", False),
        ("p.open('r+b')", False),
        ("os.open(p, os.O_RDONLY)", False),
        ("p.read_text('utf-8')", False),
        ("subprocess.run(c, encoding='utf-8')", False),
        ("TemporaryFile()", False),
    ],
)
def test_what_is_found(source: str, wrong: bool) -> None:
    assert bool([*without_encoding(source)]) == wrong
