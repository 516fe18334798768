from __future__ import annotations

import re
import shutil
import stat
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantkit.chat_template.format import OwnTemplate, named_format
from quantkit.errors import ChatFormatError, OutputError, QuantkitError
from quantkit.ollama.modelfile import Command, can_quote, parse_modelfile, print_modelfile, quote
from quantkit.ollama.parameters import PARAMETERS, check_parameters
from quantkit.package.ollama_modelfile import package_notes
from quantkit.package.render import render_package, write_package
from quantkit.package.spec import PackagedModel, PackageSpec
from quantkit.package.text import go_quote, markdown_block, markdown_code, powershell_quote, sh_quote
from tests.support.hostile import HOSTILE
from tests.support.package_specs import SPEC

SHELLS = [shell for shell in ("sh", "dash", "bash") if shutil.which(shell)]

any_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
quote_heavy_text = st.lists(st.sampled_from(['"', '""', '"""', "\n", "\r\n", " ", "a", "#", "\t", "。", "FROM b"])).map(
    "".join
)


def commands(spec: PackageSpec, name: str = "Modelfile") -> tuple[Command, ...]:
    return parse_modelfile(render_package(spec)[name])


# The Modelfile


def test_modelfile_of_every_model() -> None:
    spec = replace(SPEC, system="Be brief.", parameters=(("temperature", "0.2"), ("stop", "User:"), ("num_keep", "24")))
    for name, file in (("Modelfile", "./tiny-q4_0.gguf"), ("Modelfile.q8_0", "./tiny-q8_0.gguf")):
        assert [command for command in commands(spec, name) if command.keyword != "TEMPLATE"] == [
            Command("FROM", file),
            Command("SYSTEM", "Be brief."),
            Command("PARAMETER", "<|im_end|>", "stop"),
            Command("PARAMETER", "User:", "stop"),
            Command("PARAMETER", "8192", "num_ctx"),
            Command("PARAMETER", "0.2", "temperature"),
            Command("PARAMETER", "24", "num_keep"),
            Command("LICENSE", "MIT"),
        ]


def test_a_user_context_replaces_ours_and_a_small_model_keeps_its_own() -> None:
    for spec, expected in (
        (replace(SPEC, parameters=(("num_ctx", "4096"), ("num_ctx", "16384"))), ["16384"]),
        (replace(SPEC, context_length=512), ["512"]),
        (SPEC, ["8192"]),
    ):
        assert [command.value for command in commands(spec) if command.key == "num_ctx"] == expected


def test_nothing_is_invented() -> None:
    spec = replace(SPEC, licenses=())
    assert {(c.keyword, c.key) for c in commands(spec)} == {
        ("FROM", ""),
        ("TEMPLATE", ""),
        ("PARAMETER", "stop"),
        ("PARAMETER", "num_ctx"),
    }


def test_a_template_never_writes_the_bos_token() -> None:
    chat = named_format("llama-3")
    template = next(command.value for command in commands(replace(SPEC, chat=chat)) if command.keyword == "TEMPLATE")
    assert chat.bos == "<|begin_of_text|>"
    assert chat.bos not in template


def test_tools_in_the_models_own_template_win_unless_that_loses_the_system_prompt() -> None:
    tools = replace(SPEC, chat=replace(named_format("chatml"), mentions_tools=True))
    forced = Command("PARSER", "passthrough")
    assert forced not in commands(tools)
    assert "a newer Ollama uses that one" in render_package(tools)["Modelfile"]
    assert "a newer Ollama takes" not in render_package(SPEC)["Modelfile"]
    assert forced not in commands(replace(tools, system="Be brief."))
    assert forced in commands(replace(tools, system=HOSTILE["right to left"]))
    assert forced not in commands(replace(SPEC, system=HOSTILE["right to left"]))


def test_without_turns_there_is_no_template_but_there_are_stops() -> None:
    own = OwnTemplate("thoughts\nhave rules", ("<|im_end|>", "</s>"), takes_system=True)
    spec = replace(SPEC, chat=own, system=" Be brief. ", licenses=())
    assert commands(spec) == (
        Command("FROM", "./tiny-q4_0.gguf"),
        Command("REQUIRES", "0.33.0"),
        Command("SYSTEM", " Be brief. "),
        Command("PARAMETER", "<|im_end|>", "stop"),
        Command("PARAMETER", "</s>", "stop"),
        Command("PARAMETER", "8192", "num_ctx"),
    )
    files = render_package(spec)
    assert "# thoughts have rules.\n" in files["Modelfile"]
    assert "--jinja" in files["chat.sh"]
    assert "| chat format | jinja |" in files["README.md"]
    with pytest.raises(ChatFormatError, match="SYSTEM: a Modelfile cannot contain"):
        render_package(replace(spec, system=HOSTILE["right to left"]))
    with pytest.raises(ChatFormatError, match="does not support a system message"):
        render_package(replace(spec, chat=replace(own, takes_system=False)))


def test_notes_say_where_ollama_may_differ() -> None:
    plain = named_format("chatml")
    assert package_notes(SPEC) == []
    for changes, word in (
        ({"trims": ("user",)}, "spaces and blank lines"),
        ({"uneven": ("user",)}, "spaces and blank lines"),
        ({"dated": True}, "date"),
        ({"mentions_tools": True}, "tools or thinking"),
    ):
        notes = package_notes(replace(SPEC, chat=replace(plain, **changes)))  # type: ignore[arg-type]
        assert len(notes) == (2 if word == "tools or thinking" else 1)
        assert all(word in note for note in notes)
    (note,) = package_notes(replace(SPEC, chat=OwnTemplate("it counts", ("</s>",), takes_system=False)))
    assert "it counts" in note
    assert "a TEMPLATE cannot express" in note


def test_the_date_is_told_in_modelfile_and_card() -> None:
    chat = replace(named_format("chatml"), dated=True)
    plain, dated = render_package(SPEC), render_package(replace(SPEC, chat=chat))
    assert "date" not in plain["Modelfile"] + plain["README.md"].split("## Files")[1]
    assert "writes today's date" in dated["Modelfile"]
    assert "writes today's date" in dated["README.md"]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_system_prompt_is_in_the_modelfile_exactly(name: str) -> None:
    text = HOSTILE[name]
    read = commands(replace(SPEC, system=text))
    template = next(command.value for command in read if command.keyword == "TEMPLATE")
    system = [command.value for command in read if command.keyword == "SYSTEM"]
    if can_quote(text):
        assert system == [text]
        assert go_quote(text) not in template
    else:
        assert system == []
        assert go_quote(f"<|im_start|>system\n{text}<|im_end|>\n") in template


def test_which_hostile_prompts_need_the_template() -> None:
    # The rest fits one of the quotings, triple quotes in the middle included.
    assert {name for name, text in HOSTILE.items() if not can_quote(text)} == {
        "triple quotes at line ends",
        "unicode line ends",
        "right to left",
        "joined emoji",
        "control",
    }


@pytest.mark.parametrize("name", [name for name in HOSTILE if name not in ("braces", "long")])
def test_a_hostile_license_keeps_what_ollama_can_read(name: str) -> None:
    text = HOSTILE[name]
    kept = "".join(c for c in text if c.isprintable() or c in "\t\r\n")
    if can_quote(kept):
        assert Command("LICENSE", kept) in commands(replace(SPEC, licenses=(text,)))
    else:
        with pytest.raises(ChatFormatError, match="LICENSE: a Modelfile cannot"):
            render_package(replace(SPEC, licenses=(text,)))


@pytest.mark.parametrize("name", ["it's $(touch pwned) `x`", "中文 模型", "a & b; c", "~tilde", "#hash", " lead"])
def test_a_hostile_name_is_in_the_modelfile_exactly(name: str) -> None:
    spec = replace(SPEC, name=name, models=(PackagedModel(f"{name}-q4_0.gguf", "q4_0"),))
    assert commands(spec)[0] == Command("FROM", f"./{name}-q4_0.gguf")
    assert re.fullmatch("[a-z0-9][a-z0-9_.-]*", spec.ollama_name)


@pytest.mark.parametrize("name", ["a\nFROM evil", "a/../../b", "a\\b", 'a"b', "a\u200db", "a\0b", "a|b", "a:b"])
def test_a_name_that_is_no_file_name_everywhere_is_refused(name: str) -> None:
    with pytest.raises(OutputError, match="cannot be a file name"):
        render_package(replace(SPEC, models=(PackagedModel(f"{name}.gguf", "q4_0"),)))


def test_a_hostile_base_stays_a_comment() -> None:
    spec = replace(SPEC, base="x\nSYSTEM evil\r\nSYSTEM evil\u2028SYSTEM evil", name="n\nSYSTEM evil")
    assert "SYSTEM" not in [command.keyword for command in commands(spec)]
    files = render_package(spec)
    assert not re.search("^SYSTEM evil", "\n".join(files.values()), re.MULTILINE)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"models": ()}, "contains no model"),
        ({"models": (SPEC.models[0], SPEC.models[1], SPEC.models[1])}, "two models of type q8_0"),
        ({"system": "a\0b"}, "the system prompt contains a NUL"),
        ({"system": "a\ud800b"}, "the system prompt is not valid Unicode"),
        ({"parameters": (("stop", "a\0"),)}, "contains a NUL"),
        ({"parameters": (("num_ctx", "0"),)}, "num_ctx is out of range: 0"),
        ({"chat": replace(named_format("chatml"), system=None), "system": "hi"}, "does not support a system message"),
        ({"licenses": ('a"""\n"""\n"b',)}, "LICENSE: a Modelfile cannot contain this text"),
    ],
)
def test_what_cannot_be_written_is_refused(changes: dict[str, object], why: str) -> None:
    with pytest.raises(QuantkitError, match=why):
        render_package(replace(SPEC, **changes))  # type: ignore[arg-type]


# Quoting


@settings(max_examples=300)
@given(st.one_of(any_text, quote_heavy_text))
def test_what_is_quoted_reads_back(text: str) -> None:
    if can_quote(text):
        for block in (True, False):
            written = quote(text, block=block)
            assert parse_modelfile(f"FROM a\nLICENSE {written}\nSYSTEM after")[1:] == (
                Command("LICENSE", text),
                Command("SYSTEM", "after"),
            )
    else:
        # Only quotes at a line's end, and characters that the parser drops, are reasons to refuse.
        assert re.search(r'"[ \t]*[\r\n]', text) or not all(c.isprintable() or c in "\t\r\n" for c in text)
        with pytest.raises(ChatFormatError, match="a Modelfile cannot contain"):
            quote(text)


any_command = st.one_of(
    st.builds(
        Command,
        st.sampled_from(
            ["FROM", "LICENSE", "TEMPLATE", "SYSTEM", "ADAPTER", "DRAFT", "RENDERER", "PARSER", "REQUIRES"]
        ),
        quote_heavy_text,
    ),
    st.builds(Command, st.just("PARAMETER"), any_text, st.sampled_from(sorted(PARAMETERS))),
    st.builds(Command, st.just("MESSAGE"), quote_heavy_text, st.sampled_from(["system", "user", "assistant"])),
)


@settings(max_examples=200)
@given(st.lists(any_command, max_size=6))
def test_printing_and_reading_a_modelfile(listed: list[Command]) -> None:
    kept = (Command("FROM", "./a.gguf"), *(command for command in listed if can_quote(command.value)))
    assert parse_modelfile(print_modelfile(kept)) == kept


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("FROM a\nPARAMETER stop", "line 2: the file ends inside what follows PARAMETER"),
        ("FROM a\n\nSYSTEM\nx", "line 3: a command must be a word followed by a value"),
        ("FROM a\nSYSTEM", "line 2: the file ends inside a command"),
        ("FROM a\n* x", "line 2: a command must be a word"),
        ("FROM a\nMESSAGE tool x", "line 2: a message's role must be one of system, user, assistant"),
        ('FROM a\nSYSTEM """x\n"', "line 3: the file ends inside quotes"),
        ("FROM a\nSYSTM x", "line 2: unknown command; the commands are FROM, LICENSE"),
    ],
)
def test_reading_a_broken_modelfile(text: str, why: str) -> None:
    with pytest.raises(ChatFormatError, match=re.escape(why)):
        parse_modelfile(text)


def test_reading_drops_what_ollama_drops() -> None:
    assert parse_modelfile("FROM a\nSYSTEM x\u200dy\u00a0z\x07\tw\u202e")[1].value == "xyz\tw"


@settings(max_examples=25)
@given(st.lists(any_text, min_size=1, max_size=30))
@pytest.mark.parametrize("shell", SHELLS)
def test_shell_quoting(shell: str, texts: list[str]) -> None:
    script = f"printf '%s\\0' {' '.join(map(sh_quote, texts))}"
    done = subprocess.run([shell], input=script.encode(), capture_output=True, check=True)
    assert done.stdout.split(b"\0")[:-1] == [text.encode() for text in texts]


@given(any_text)
def test_powershell_quoting(text: str) -> None:
    literal = powershell_quote(text)
    assert literal[0] == literal[-1] == "'"
    # PowerShell reads two quotes of any kind as the first of them, and ends at a single one.
    quotes = "'\u2018\u2019\u201a\u201b"
    assert re.sub(f"[{quotes}](?=[{quotes}])(.)", r"\1", literal[1:-1]) == text
    assert not re.search(f"(?<![{quotes}])[{quotes}](?:[{quotes}]{{2}})*(?![{quotes}])", literal[1:-1])


@given(any_text)
def test_markdown_quoting(text: str) -> None:
    code = markdown_code(text)
    fence = re.match("`+", code)
    assert fence
    assert code.endswith(fence.group())
    assert fence.group() not in code[len(fence.group()) : -len(fence.group())].strip("`")
    block = markdown_block(text)
    fence = re.match("`+", block)
    assert fence
    assert block.count(fence.group()) == 2


def test_nul_is_never_quoted() -> None:
    for function in (sh_quote, powershell_quote):
        with pytest.raises(ChatFormatError, match="NUL"):
            function("a\0b")


# Parameters


@pytest.mark.parametrize(
    "pair",
    [
        ("temperature", "0.2"),
        ("temperature", "1"),
        ("temperature", "1e-1"),
        ("top_p", ".9"),
        ("num_gpu", "-1"),
        ("num_thread", "0"),
        ("seed", "42"),
        ("use_mmap", "false"),
        ("stop", "a b"),
    ],
)
def test_good_parameters(pair: tuple[str, str]) -> None:
    check_parameters([pair])


@pytest.mark.parametrize(
    ("pair", "why", "hint"),
    [
        (("temprature", "0.2"), "unknown Ollama parameter 'temprature'", "did you mean: temperature"),
        (("Temperature", "0.2"), "unknown Ollama parameter 'Temperature'", "did you mean: temperature"),
        (("zzz", "0.2"), "unknown Ollama parameter 'zzz'", "num_ctx, num_gpu"),
        (("mirostat", "1"), "Ollama ignores the parameter mirostat", "leave mirostat out"),
        (("temperature", "hot"), "temperature must be a number, not 'hot'", "use a value such as 0.2"),
        (("temperature", "nan"), "must be a number, not 'nan'", ""),
        (("temperature", ""), "must be a number, not ''", ""),
        (("top_k", "5.5"), "top_k must be a whole number, not '5.5'", "use a value such as 42"),
        (("top_k", "٣"), "must be a whole number", ""),
        (("top_k", "1\n"), "must be a whole number", ""),
        (("use_mmap", "yes"), "must be true or false, not 'yes'", "such as true"),
        (("stop", ""), "must be a text, not ''", ""),
        (("num_ctx", "0"), "num_ctx is out of range: 0", "above 0 and below 2147483648"),
        (("num_gpu", "2147483648"), "num_gpu is out of range: 2147483648", ""),
        (("num_thread", "2147483648"), "is out of range", ""),
        (("repeat_penalty", "0"), "repeat_penalty is out of range: 0", "above 0 and"),
        (("temperature", 50 * "9"), "is out of range", "below 3.4e+38"),
    ],
)
def test_bad_parameters(pair: tuple[str, str], why: str, hint: str) -> None:
    with pytest.raises(ChatFormatError, match=re.escape(why)) as refused:
        check_parameters([("seed", "1"), pair])
    assert hint in refused.value.hint
    with pytest.raises(ChatFormatError, match=re.escape(why)):
        render_package(replace(SPEC, parameters=(pair,)))


# Card and files


def test_card() -> None:
    text = render_package(replace(SPEC, system="a ``` b", name="my_model [x](y)", base="a|b"))["README.md"]
    for line in (
        "# my\\_model \\[x\\](y)",
        "A `llama` model of 2.03 million parameters as GGUF, ready to chat offline. Made by quantkit.",
        "| base model | a\\|b |",
        "| adapter | first-lora |",
        "| adapter | second-lora |",
        "| end-of-turn token | \\<\\|im\\_end\\|\\> |",
        "| context | 131072 tokens; chats here use 8192 |",
        "| license | MIT |",
        "ollama create my_model-x-y -f Modelfile",
        "| Modelfile.q8\\_0 | Ollama settings for tiny-q8\\_0.gguf |",
        "````text",
    ):
        assert line in text.splitlines()
    assert "not stated" in render_package(replace(SPEC, licenses=(" ",)))["README.md"]
    assert "see the LICENSE in the Modelfile" in render_package(replace(SPEC, licenses=("long " * 100,)))["README.md"]


def test_write_package(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "中文"
    paths = write_package(replace(SPEC, system="a\r\nb"), folder)
    assert [path.name for path in paths] == ["Modelfile", "Modelfile.q8_0", "chat.sh", "chat.ps1", "README.md"]
    assert sorted(paths) == sorted(folder.iterdir())
    for path in paths:
        data = path.read_bytes()
        assert data.endswith(b"\n")
        assert data.count(b"\r") == data.count(b"a\r\nb")
        assert bool(path.stat().st_mode & stat.S_IXUSR) == (path.name == "chat.sh")


def test_write_package_says_where_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="Modelfile: cannot be written "):
        write_package(SPEC, tmp_path / "file")


def test_nothing_is_written_when_something_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ChatFormatError):
        write_package(replace(SPEC, parameters=(("nonsense", "1"),)), tmp_path / "package")
    assert not (tmp_path / "package").exists()
