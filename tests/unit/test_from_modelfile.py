"""Packages that start from an existing Modelfile: what is carried, what counts before it, what is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_gguf import LLAMA_3, Tiny, write_tiny_gguf

from quantkit.cli.main import main
from quantkit.errors import ChatFormatError, GGUFError, QuantkitError
from quantkit.jobs.package import package
from quantkit.ollama.modelfile import Command, parse_modelfile, print_modelfile
from quantkit.ollama.read_modelfile import modelfile_content, read_modelfile
from quantkit.system.progress import Reporter

OWN_TEMPLATE = "{{ if .System }}{{ .System }} {{ end }}<|start_header_id|>{{ .Prompt }}<|end_header_id|>"


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    return write_tiny_gguf(folder / "tiny.gguf", Tiny(extra={"general.sampling.temp": 0.6}))


def start(folder: Path, *lines: str, name: str = "Modelfile") -> Path:
    path = folder / name
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def made(folder: Path) -> list[Command]:
    """The commands of a package's Modelfile, without the TEMPLATE of a chat format."""
    return list(parse_modelfile((folder / "Modelfile").read_text(encoding="utf-8")))


def test_everything_is_carried(gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "tiny.gguf").symlink_to(gguf)
    modelfile = start(
        tmp_path / "in",
        "# mine",
        "from ./tiny.gguf",
        'SYSTEM """你是一个助手。\nSay "hi"."""',
        "PARAMETER temperature 0.2",
        'PARAMETER stop "User: "',
        "parameter num_ctx 300",
        "LICENSE MIT",
        "LICENSE Apache-2.0",
        "MESSAGE user Hi",
        "MESSAGE assistant Hello.",
        "REQUIRES 0.6.1",
    )
    out = package((), tmp_path / "out", modelfile=modelfile)
    commands = made(out)
    template = next(command for command in commands if command.keyword == "TEMPLATE")
    assert "<|start_header_id|>assistant" in template.value
    assert [command for command in commands if command is not template] == [
        Command("FROM", "./tiny.gguf"),
        Command("REQUIRES", "0.6.1"),
        Command("SYSTEM", '你是一个助手。\nSay "hi".'),
        Command("MESSAGE", "Hi", "user"),
        Command("MESSAGE", "Hello.", "assistant"),
        Command("PARAMETER", "<|eot_id|>", "stop"),
        Command("PARAMETER", "User: ", "stop"),
        Command("PARAMETER", "300", "num_ctx"),
        Command("PARAMETER", "0.2", "temperature"),
        Command("LICENSE", "MIT"),
        Command("LICENSE", "Apache-2.0"),
    ]
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["chat"]["system"] == '你是一个助手。\nSay "hi".'
    assert manifest["chat"]["parameters"] == {"temperature": "0.2", "stop": ["User: "], "num_ctx": "300"}
    assert manifest["chat"]["messages"] == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
    ]
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "## Example conversation" in card
    assert "| license | MIT; Apache-2.0 |" in card


def test_what_is_given_counts_before_the_modelfile_and_that_before_the_gguf(gguf: Path, tmp_path: Path) -> None:
    modelfile = start(
        tmp_path,
        *("FROM llama3", "SYSTEM theirs", "PARAMETER temperature 0.2", "PARAMETER top_k 5", "PARAMETER stop a"),
        *("MESSAGE user theirs", "MESSAGE assistant theirs"),
    )
    out = package(
        (gguf,),
        tmp_path / "out",
        modelfile=modelfile,
        system="mine",
        parameters=(("top_k", "7"), ("stop", "b")),
        messages=(("user", "my"), ("assistant", "own")),
    )
    assert [command for command in made(out) if command.keyword in ("SYSTEM", "MESSAGE", "PARAMETER")] == [
        Command("SYSTEM", "mine"),
        Command("MESSAGE", "my", "user"),
        Command("MESSAGE", "own", "assistant"),
        *(Command("PARAMETER", stop, "stop") for stop in ("<|eot_id|>", "a", "b")),
        Command("PARAMETER", "512", "num_ctx"),
        Command("PARAMETER", "0.2", "temperature"),
        Command("PARAMETER", "7", "top_k"),
    ]
    plain = package((gguf,), tmp_path / "plain")
    assert Command("PARAMETER", "0.6", "temperature") in made(plain)


@pytest.mark.parametrize("system", [None, 'plain "text"', "only \u202e inside the TEMPLATE"])
@pytest.mark.parametrize("words", ["", "{# tools #}"])
def test_our_own_modelfile_makes_the_same_again(tmp_path: Path, system: str | None, words: str) -> None:
    gguf = write_tiny_gguf(tmp_path / "tiny.gguf", Tiny(template=LLAMA_3 + words))
    first = package((gguf,), tmp_path / "first", system=system, parameters=(("seed", "1"),))
    again = package((), tmp_path / "again", modelfile=first / "Modelfile")
    assert made(again) == made(first)
    forced = words and system is not None and "\u202e" in system
    assert (Command("PARSER", "passthrough") in made(again)) == bool(forced)


def test_a_template_of_the_users_own(gguf: Path, tmp_path: Path) -> None:
    modelfile = start(tmp_path, f"FROM {gguf}", f'TEMPLATE """{OWN_TEMPLATE}"""')
    reporter = Reporter()
    out = package((), tmp_path / "out", modelfile=modelfile, reporter=reporter)
    assert Command("TEMPLATE", OWN_TEMPLATE) in made(out)
    assert Command("PARAMETER", "<|eot_id|>", "stop") in made(out)
    note, compared = reporter.notes
    assert "the TEMPLATE is your own" in note
    assert "it does not write <|eot_id|>;" in compared  # after a question, as the chat template of the file does
    assert "the TEMPLATE is your own" in (out / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "template",
    [
        "<|begin_of_text|>{{ .Prompt }}",
        '{{ "<|begin_of_text|>" }}{{ .Prompt }}',
        "{{- if .System }}<|begin_of_text|>{{ .System }}{{ end }}{{ .Prompt }}",
        "{{- range $i, $m := .Messages }} {{ if eq $i 0 }}\n<|begin_of_text|>{{ end }}{{ end }}",
    ],
)
def test_a_template_that_doubles_bos(gguf: Path, tmp_path: Path, template: str) -> None:
    modelfile = start(tmp_path, f"FROM {gguf}", f'TEMPLATE """{template}"""')
    with pytest.raises(ChatFormatError, match="which Ollama adds by itself: the token would be doubled"):
        package((), tmp_path / "out", modelfile=modelfile)
    without = write_tiny_gguf(tmp_path / "without.gguf", Tiny(add_bos=False))
    assert package((without,), tmp_path / "out", modelfile=modelfile).is_dir()


@pytest.mark.parametrize(
    ("lines", "error", "why"),
    [
        (("FROM a", "DRAFT ./b.gguf"), ChatFormatError, "DRAFT is not supported"),
        (("FROM a", "RENDERER qwen3"), ChatFormatError, "RENDERER is not supported"),
        (("FROM a", "PARSER qwen3"), ChatFormatError, "PARSER qwen3 is not supported"),
        (("FROM a", "PARSER passthrough"), ChatFormatError, "PARSER passthrough is not supported"),
        (("FROM a", "PARAMETER mirostat 1"), ChatFormatError, "Ollama ignores the parameter mirostat"),
        (("FROM a", "PARAMETER top_k 1.5"), ChatFormatError, "top_k must be a whole number"),
        (
            ("FROM a", "FROM b", "FROM c"),
            GGUFError,
            "has 3 FROM lines, and a package contains one",
        ),
        (("FROM {gguf}", "FROM b"), GGUFError, "FROM b: no such file"),
        (
            ("FROM {gguf}", "FROM {gguf}"),
            GGUFError,
            r"at most one projector, not .*\(a model\), ",
        ),
        (("FROM llama3",), GGUFError, "FROM llama3: no such file"),
        (("FROM .",), GGUFError, r"FROM \.: no such file"),
        (("FROM ~/none.gguf",), GGUFError, "FROM ~/none.gguf: no such file"),
        (("FROM ~nobody-of-that-name/x.gguf",), GGUFError, "FROM ~nobody-of-that-name/x.gguf: no such file"),
        (("FROM " + "x" * 300,), GGUFError, "FROM x{80}: no such file"),
        (("SYSTEM x",), ChatFormatError, "Modelfile: the Modelfile has no FROM line"),
        (("FROM a", 'SYSTEM """x'), ChatFormatError, "Modelfile, line 2: the file ends inside quotes"),
        (("FROM {gguf}", "MESSAGE system x"), ChatFormatError, "message 1 is a system message"),
        (("FROM {gguf}", "MESSAGE user x"), ChatFormatError, "message 1 has no answer"),
        (("FROM {gguf}", "MESSAGE assistant x"), ChatFormatError, "message 1 has the role 'assistant'"),
        (("FROM {gguf}", "MESSAGE user x", "MESSAGE user y"), ChatFormatError, "message 2 has the role 'user'"),
        (("FROM {gguf}", 'MESSAGE user ""', "MESSAGE assistant y"), ChatFormatError, "message 1 is empty"),
        (
            ("FROM {gguf}", 'TEMPLATE """{{ .Prompt """'),
            ChatFormatError,
            "Modelfile: TEMPLATE, line 1: {{ is",
        ),
        (("FROM {gguf}", "REQUIRES soon"), ChatFormatError, "REQUIRES 'soon' is not a version"),
    ],
)
def test_what_is_refused(
    gguf: Path, tmp_path: Path, lines: tuple[str, ...], error: type[QuantkitError], why: str
) -> None:
    modelfile = start(tmp_path, *(line.replace("{gguf}", str(gguf)) for line in lines))
    with pytest.raises(error, match=why) as refused:
        package((), tmp_path / "out", modelfile=modelfile)
    assert refused.value.hint
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("lines", "hint"),
    [
        (("root:x:0:0",), "correct that line, or give another file that is a Modelfile"),
        (("FROM a", 'SYSTEM """x'), "correct that line, or give another file that is a Modelfile"),
        (("SYSTEM x",), "add a line such as: FROM ./FILE.gguf"),
        (("FROM a", "TEMPLATE {{ if .System }}"), "correct the TEMPLATE; Ollama would refuse it"),
    ],
)
def test_the_hint_is_about_the_modelfile(tmp_path: Path, lines: tuple[str, ...], hint: str) -> None:
    with pytest.raises(ChatFormatError, match="Modelfile: ") as refused:
        read_modelfile(start(tmp_path, *lines))
    assert refused.value.hint == hint


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(QuantkitError, match="none: cannot be read"):
        read_modelfile(tmp_path / "none")
    (tmp_path / "latin").write_bytes("FROM a\nSYSTEM café".encode("latin-1"))
    with pytest.raises(ChatFormatError, match="latin: not valid UTF-8"):
        read_modelfile(tmp_path / "latin")
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        (tmp_path / "m").write_bytes("FROM a\nSYSTEM 你好".encode(encoding))
        assert modelfile_content(tmp_path / "m").system == "你好"


def test_the_last_of_what_counts_once(tmp_path: Path) -> None:
    found = modelfile_content(start(tmp_path, "FROM a", "SYSTEM one", "SYSTEM two", "TEMPLATE x", "TEMPLATE y"))
    assert (found.system, found.template, found.forced) == ("two", "y", False)
    assert modelfile_content(start(tmp_path, "FROM a", "TEMPLATE {{", "TEMPLATE y")).template == "y"


@pytest.mark.parametrize("path", ["with space/it's.gguf", "中文/模型.gguf", "a.gguf"])
def test_from_is_relative_to_the_modelfile(
    gguf: Path, tmp_path: Path, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in" / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "in" / path).symlink_to(gguf)
    modelfile = tmp_path / "in" / "Modelfile"
    modelfile.write_text(print_modelfile([Command("FROM", path)]), encoding="utf-8")
    arguments: list[Any] = ["package", "--modelfile", modelfile, "-o", tmp_path / "out", "--json"]
    with pytest.raises(SystemExit) as left:
        main([*map(str, arguments), "--message", "user=Hi = there", "--message", "assistant=Hello"])
    assert left.value.code == 0
    assert Path(path).name in json.loads(capsys.readouterr().out)["files"]
    assert Command("MESSAGE", "Hi = there", "user") in made(tmp_path / "out")


def test_the_command_wants_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as left:
        main(["package", "-o", str(tmp_path / "out")])
    assert left.value.code == 2
    assert "--modelfile" in capsys.readouterr().err
