"""Hostile texts in every place of a Modelfile: each is read back exactly, or refused by name; nothing else changes."""

from __future__ import annotations

import ast
import re
from dataclasses import replace

import pytest

from quantkit.chat_template.format import OwnTemplate, Turn, named_format
from quantkit.errors import ChatFormatError, OutputError, QuantkitError
from quantkit.ollama.modelfile import Command, can_quote, parse_modelfile
from quantkit.package.ollama_modelfile import modelfile
from quantkit.package.render import render_package
from quantkit.package.spec import PackagedModel, PackageSpec
from quantkit.package.text import go_quote
from tests.support.go_prompts import Job, Talk, ollama_prompts
from tests.support.hostile import HOSTILE, NOT_CARRIED
from tests.support.package_specs import SPEC as PLAIN

SPEC = replace(PLAIN, models=PLAIN.models[:1])
OWN = replace(SPEC, chat=OwnTemplate("it thinks", ("<|im_end|>",), takes_system=True))

TEXTS = HOSTILE | {
    "commands": "x\nFROM evil.gguf\nPARAMETER stop x\n# y",
    "commands behind triple quotes": '"""\nPARAMETER stop x\nSYSTEM """',
    "commands behind a quote": '"\nFROM evil.gguf\nSYSTEM "',
    "the end of a template": '{{ end }}"""\nSYSTEM evil\n',
    "white space around": " \t padded \n ",
    "no-break spaces": "\u00a0a\u00a0",
    "zero width": "a\u200bb\u2060c",
    "one quote": '"',
    "a role": "user: hello",
}
EVERY = pytest.mark.parametrize("text", [*TEXTS.values(), *NOT_CARRIED.values()], ids=[*TEXTS, *NOT_CARRIED])
CARRIED = pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)


def read(spec: PackageSpec) -> tuple[Command, ...]:
    return parse_modelfile(render_package(spec)["Modelfile"])


def around(commands: tuple[Command, ...], *keywords: str) -> list[Command]:
    """The commands that the text must not touch."""
    return [command for command in commands if command.keyword not in keywords]


def test_there_are_twenty_of_them() -> None:
    assert len(TEXTS) + len(NOT_CARRIED) >= 20
    assert len(TEXTS["long"]) > 80_000
    assert {can_quote(text) for text in TEXTS.values()} == {True, False}


@EVERY
def test_as_the_system_prompt(text: str) -> None:
    spec = replace(SPEC, system=text)
    if text in NOT_CARRIED.values():
        with pytest.raises(ChatFormatError, match=r"the system prompt (contains a NUL character|is not valid Unicode)"):
            render_package(spec)
        return
    commands = read(spec)
    assert around(commands, "SYSTEM", "TEMPLATE") == around(read(SPEC), "TEMPLATE")
    system = [command.value for command in commands if command.keyword == "SYSTEM"]
    (template,) = (command.value for command in commands if command.keyword == "TEMPLATE")
    assert system == ([text] if can_quote(text) else [])
    assert (go_quote(f"<|im_start|>system\n{text}<|im_end|>\n") in template) is not can_quote(text)


@EVERY
def test_as_the_system_prompt_where_there_is_no_template(text: str) -> None:
    spec = replace(OWN, system=text)
    if can_quote(text) and text not in NOT_CARRIED.values():
        commands = read(spec)
        assert [command for command in commands if command.keyword == "SYSTEM"] == [Command("SYSTEM", text)]
        assert around(commands, "SYSTEM") == list(read(OWN))
    else:
        with pytest.raises(ChatFormatError, match=r"SYSTEM: a Modelfile cannot contain|the system prompt"):
            render_package(spec)


@pytest.mark.parametrize(("keyword", "key"), [("MESSAGE", "user"), ("PARAMETER", "stop"), ("LICENSE", "")])
@EVERY
def test_as_another_value(text: str, keyword: str, key: str) -> None:
    spec = {
        "MESSAGE": replace(SPEC, messages=(("user", text), ("assistant", "ok"))),
        "PARAMETER": replace(SPEC, parameters=(("stop", text),)),
        "LICENSE": replace(SPEC, licenses=(text,)),
    }[keyword]
    if keyword == "LICENSE":  # whatever Ollama drops anyway, such as form feeds, is no reason to refuse a license
        text = "".join(c for c in text if c.isprintable() or c in "\t\r\n\0\ud800")
    if can_quote(text) and text not in NOT_CARRIED.values():
        commands = read(spec)
        assert Command(keyword, text, key) in commands
        rest = [Command("MESSAGE", "ok", "assistant")] if keyword == "MESSAGE" else []
        assert [c for c in around(commands, "LICENSE") if c != Command(keyword, text, key) and c not in rest] == around(
            read(SPEC), "LICENSE"
        )
    else:
        with pytest.raises(
            ChatFormatError, match=rf"{keyword}.*: a Modelfile cannot contain|(stop|message|license).*(NUL|Unicode)"
        ):
            render_package(spec)


@CARRIED
def test_as_the_name_and_the_base(text: str) -> None:
    spec = replace(SPEC, name=text, base=text, adapters=(text,))
    assert read(spec) == read(SPEC)
    assert re.fullmatch(r"[a-z0-9_][a-z0-9_.-]{0,79}", spec.ollama_name)


@EVERY
def test_as_a_file_name(text: str) -> None:
    file = f"{text[:200]}-q4_0.gguf"
    spec = replace(SPEC, models=(PackagedModel(file, "q4_0"),))
    if all(c.isprintable() and c not in '<>:"/\\|?*' for c in file) and len(file.encode()) <= 255:
        assert read(spec)[0] == Command("FROM", f"./{file}")
        assert read(spec)[1:] == read(SPEC)[1:]
    else:
        with pytest.raises(OutputError, match="cannot be a file name in a package"):
            render_package(spec)


@CARRIED
def test_as_a_part_of_the_template(text: str) -> None:
    """What a chat template writes around contents."""
    chat = named_format("chatml")
    spec = replace(SPEC, chat=replace(chat, user=Turn(text, chat.user.suffix), assistant=Turn(text, text)))
    commands = parse_modelfile(modelfile(spec, 0))
    (template,) = (command.value for command in commands if command.keyword == "TEMPLATE")
    assert template.count(f"{{{{ {go_quote(text)} }}}}{{{{ .Content }}}}") == 2
    assert ast.literal_eval(go_quote(text)) == text  # its escapes mean the same there
    assert around(commands, "TEMPLATE") == around(read(SPEC), "TEMPLATE")


def test_go_prints_them_as_they_are() -> None:
    """PostProcessor contents, as contents, and as a system prompt that only the TEMPLATE can carry."""
    jobs, expected = [], []
    for text in TEXTS.values():
        spec = replace(SPEC, chat=replace(SPEC.chat, user=Turn(text, text)), system=text)
        said = {command.keyword: command.value for command in parse_modelfile(modelfile(spec, 0))}
        talk = [{"role": "user", "content": text}]
        jobs.append(Job(said["TEMPLATE"], [Talk(talk, said.get("SYSTEM", ""))]))
        assert spec.turns is not None
        expected.append([spec.turns.render([{"role": "system", "content": text}, *talk])])
    assert ollama_prompts(jobs) == expected


@EVERY
def test_as_a_keyword_or_a_parameter(text: str) -> None:
    with pytest.raises(QuantkitError):
        render_package(replace(SPEC, parameters=((text, "1"),)))
    with pytest.raises(QuantkitError):
        render_package(replace(SPEC, messages=((text, "hi"), ("assistant", "ok"))))
    with pytest.raises(QuantkitError):
        render_package(replace(SPEC, requires=text))
