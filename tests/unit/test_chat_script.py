"""``chat.sh`` under every shell, with programs that record how they were called; ``chat.ps1`` as text."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from quantkit.chat_template.format import ChatFormat, OwnTemplate, Turn, named_format
from quantkit.cli.chat import command as chat_command
from quantkit.errors import ChatFormatError, OutputError
from quantkit.package.chat_script import chat_ps1, chat_sh, llama_cli_options, turn_options
from quantkit.package.render import render_package, write_package
from quantkit.package.spec import PackagedModel, PackageSpec
from tests.support.hostile import HOSTILE, NOT_CARRIED
from tests.support.package_specs import SPEC, packaged
from tests.support.patience import PATIENCE

SHELLS = [shell for shell in ("sh", "dash", "bash") if shutil.which(shell)]
# Where sh is one of the others, what takes long is not run twice.
DISTINCT_SHELLS = sorted({os.path.realpath(str(shutil.which(shell))) for shell in SHELLS})
SHELLCHECK = Path(sys.executable).with_name("shellcheck")

LLAMA_CLI = ("--jinja", "-ngl", "999", "-c", "8192")
OWN = OwnTemplate("it counts", ("<|im_end|>",), takes_system=True)

# A shell is there in a millisecond.
RECORDER = """#!/bin/sh
case $* in --help) echo "options: $HELP" >&2; exit 1 ;; esac
printf '%s\\0' "${0##*/}" "$@" >"$RECORD"
exit 7
"""


class Machine:
    """A PATH with recording programs, and nothing else but readlink."""

    def __init__(self, root: Path, *programs: str) -> None:
        self.record = root / "record.json"
        self.bin = root / "bin"
        self.bin.mkdir()
        os.symlink(str(shutil.which("readlink")), self.bin / "readlink")
        for program in programs:
            (self.bin / program).write_text(RECORDER)
            (self.bin / program).chmod(0o755)

    def run(self, *command: str, cwd: Path, help: str = "--in-prefix") -> subprocess.CompletedProcess[str]:
        """Run a command whose first word is a shell; *help* is what the programs answer to ``--help``."""
        shell = str(shutil.which(command[0]))
        environment = {"PATH": str(self.bin), "RECORD": str(self.record), "HELP": help}
        return subprocess.run(
            [shell, *command[1:]],
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            check=False,
            timeout=PATIENCE,
        )

    def recorded(self) -> list[str]:
        """The words of the last call."""
        return [os.fsdecode(word) for word in self.record.read_bytes().split(b"\0")[:-1]]


def unescaped(text: str) -> str:
    """What llama.cpp reads: its ``string_process_escapes``, for the escapes that are written."""
    short = {"\\n": "\n", "\\r": "\r", "\\t": "\t", "\\x5c": "\\", "\\x22": '"'}
    return re.sub(r"\\(x..|.)", lambda match: short[match.group()], text)


# Which program, and how


@pytest.mark.parametrize("shell", SHELLS)
def test_without_llama_cli_quantkit_chats(shell: str, tmp_path: Path) -> None:
    machine = Machine(tmp_path, "quantkit", "llama-completion", "main")
    folder = packaged(SPEC, tmp_path / "a package")
    done = machine.run(shell, str(folder / "chat.sh"), "--n-gpu-layers", "0", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (7, "llama-cli is not installed; using quantkit chat\n")
    assert machine.recorded() == ["quantkit", "chat", str(folder), "--n-gpu-layers", "0"]


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("programs", [("llama-completion", "main"), ("main",)])
def test_older_programs_are_given_the_turns(shell: str, programs: tuple[str, ...], tmp_path: Path) -> None:
    machine = Machine(tmp_path, *programs)
    spec = replace(SPEC, system="Be\nbrief.", parameters=(("temperature", "0.2"),))
    folder = packaged(spec, tmp_path / "package")
    done = machine.run(shell, str(folder / "chat.sh"), "-n", "5", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (7, f"llama-cli is not installed; using {programs[0]}\n")
    assert machine.recorded() == [
        *(programs[0], "-m", str(folder / "tiny-q4_0.gguf"), "-ngl", "999", "-c", "8192", "--temp", "0.2"),
        *("-if", "-e", "--in-prefix", "\\n<|im_start|>user\\n", "--in-suffix", "<|im_end|>\\n<|im_start|>assistant\\n"),
        *("-p", "<|im_start|>system\\nBe\\nbrief.<|im_end|>"),
        *(["-no-cnv"] if programs[0] == "llama-completion" else []),
        *("-n", "5"),
    ]


@pytest.mark.parametrize("shell", SHELLS)
def test_another_program_named_main_is_left_alone(shell: str, tmp_path: Path) -> None:
    machine = Machine(tmp_path, "main")
    folder = packaged(SPEC, tmp_path / "package")
    done = machine.run(shell, str(folder / "chat.sh"), cwd=tmp_path, help="--verbose")
    assert done.returncode == 1
    assert done.stderr.startswith("error: neither llama-cli nor quantkit is installed\nhint: install llama.cpp")
    assert not machine.record.exists()


@pytest.mark.parametrize("shell", SHELLS)
def test_without_turns_llama_completion_runs_the_template_and_main_cannot(shell: str, tmp_path: Path) -> None:
    machine = Machine(tmp_path, "llama-completion", "main")
    folder = packaged(replace(SPEC, chat=OWN, system="Be brief."), tmp_path / "package")
    done = machine.run(shell, str(folder / "chat.sh"), "-st", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (7, "llama-cli is not installed; using llama-completion\n")
    assert machine.recorded() == [
        *("llama-completion", "-m", str(folder / "tiny-q4_0.gguf"), "--jinja", "-cnv", "-ngl", "999", "-c", "8192"),
        *("-sys", "Be brief.", "-st"),
    ]
    (machine.bin / "llama-completion").unlink()
    machine.record.unlink()
    assert machine.run(shell, str(folder / "chat.sh"), cwd=tmp_path).returncode == 1
    assert not machine.record.exists()


@pytest.mark.parametrize("shell", SHELLS)
def test_without_anything_the_script_says_what_to_install(shell: str, tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    folder = packaged(SPEC, tmp_path / "package")
    done = machine.run(shell, str(folder / "chat.sh"), cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: neither llama-cli nor quantkit is installed\nhint: install llama.cpp")


@pytest.mark.parametrize("shell", SHELLS)
def test_a_missing_model_is_named(shell: str, tmp_path: Path) -> None:
    machine = Machine(tmp_path, "llama-cli")
    folder = packaged(SPEC, tmp_path / "package")
    (folder / "tiny-q4_0.gguf").unlink()
    done = machine.run(shell, str(folder / "chat.sh"), cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, f"error: {folder}/tiny-q4_0.gguf is missing\n")


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help(shell: str, option: str, tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    for name, spec, old in (("turns", SPEC, True), ("own", replace(SPEC, chat=OWN), False)):
        done = machine.run(shell, str(packaged(spec, tmp_path / name) / "chat.sh"), option, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("usage: sh chat.sh [OPTION]...\n")
        assert ("an old main" in done.stdout) == old


@pytest.mark.parametrize("program", ["llama-cli", "quantkit", "llama-completion", "main"])
def test_the_example_of_the_help_is_for_the_program_that_is_found(program: str, tmp_path: Path) -> None:
    machine = Machine(tmp_path, program)
    folder = packaged(SPEC, tmp_path / "package")
    shown = machine.run("sh", str(folder / "chat.sh"), "--help", cwd=tmp_path).stdout
    family = "quantkit" if program == "quantkit" else "llama.cpp"
    (example,) = re.findall(rf"^ +sh chat\.sh( .* # {family})$", shown, re.MULTILINE)
    assert f"\\chat.ps1{example}'" in chat_ps1(SPEC)
    assert machine.run("sh", "chat.sh", *shlex.split(example, comments=True), cwd=folder).returncode == 7
    _, *words = machine.recorded()
    if program == "quantkit":
        assert chat_command.make_context("chat", words[1:]).params["parameters"] == (("temperature", "0.7"),)
    else:
        assert words[-4:] == ["-ngl", "0", "--temp", "0.7"]


def test_the_script_runs_by_itself_and_from_the_path(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "llama-cli")
    folder = packaged(SPEC, tmp_path / "package")
    (machine.bin / "tiny-chat").symlink_to(folder / "chat.sh")
    done = machine.run("sh", "-c", "tiny-chat --temp 1", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (7, "")
    assert machine.recorded()[2] == str(folder / "tiny-q4_0.gguf")
    assert machine.recorded()[-2:] == ["--temp", "1"]


def test_parameters_become_options_of_llama_cli() -> None:
    parameters = (
        *(("temperature", "0.9"), ("repeat_penalty", "1.1"), ("top_k", "40"), ("top_p", "0.9"), ("min_p", "0.05")),
        *(("seed", "7"), ("num_ctx", "2048"), ("num_predict", "128"), ("num_keep", "24"), ("num_gpu", "0")),
        *(("use_mmap", "true"), ("stop", 'a\\"b\n'), ("stop", "<|im_end|>"), ("temperature", "0.2")),
    )
    assert llama_cli_options(replace(SPEC, parameters=parameters)) == (
        *("-ngl", "0", "-c", "2048", "--temp", "0.2", "--repeat-penalty", "1.1", "--top-k", "40", "--top-p", "0.9"),
        *("--min-p", "0.05", "-s", "7", "-n", "128", "--keep", "24", "-r", "a\\x5c\\x22b\\n"),
    )


# The turns for older programs

NAMES = ("llama-3", "llama-3.1", "chatml", "llama-2", "mistral", "gemma", "phi-3", "alpaca")


def conversation_of(chat: ChatFormat, spec: PackageSpec, questions: list[str], answers: list[str]) -> str:
    """The text that an older program evaluates, each answer being ended by the first stop of the format."""
    turns = turn_options(spec, chat)
    options = [unescaped(option) for option in turns.options]
    given = {name: options[options.index(name) + 1] for name in ("--in-prefix", "--in-suffix", "-r") if name in options}
    text = unescaped(turns.prompt)
    for number, question in enumerate(questions):
        text += given.get("--in-prefix", "") + question + given["--in-suffix"]
        if number < len(answers):
            text += answers[number] + chat.stops[0] + given.get("-r", "")
    return text


@pytest.mark.parametrize("adds_bos", [True, False])
@pytest.mark.parametrize("stop", [None, "User:"])
@pytest.mark.parametrize("system", [None, "Be \\brief\\.\n简短"])
@pytest.mark.parametrize("name", NAMES)
def test_older_programs_build_the_formats_own_prompt(
    name: str, system: str | None, stop: str | None, adds_bos: bool
) -> None:
    chat = named_format(name)
    spec = replace(SPEC, chat=chat, system=system, adds_bos=adds_bos, parameters=(("stop", stop),) if stop else ())
    messages = [{"role": "system", "content": system}] if system else []
    messages += [{"role": "user", "content": "你好"}]
    bos = chat.bos if adds_bos else ""
    assert bos + conversation_of(chat, spec, ["你好"], []) == chat.render(messages)
    if name == "mistral" and system:
        return  # the format moves the system prompt on to the next question, which no option of these programs does
    messages += [{"role": "assistant", "content": "Hi"}, {"role": "user", "content": "again"}]
    built = bos + conversation_of(chat, spec, ["你好", "again"], ["Hi"])
    # A space around an answer is the model's to write.
    assert built == chat.render(messages).replace(" Hi ", "Hi").replace(" Hi", "Hi")


@pytest.mark.parametrize("line", ["\n", ""])
def test_the_mark_that_ended_an_answer_opens_the_next_question(line: str) -> None:
    ends = ("<|user|>", "<|endoftext|>")
    chat = ChatFormat("glm", "", None, Turn(f"<|user|>{line}", ""), Turn("<|assistant|>", ""), "<|assistant|>", ends)
    spec = replace(SPEC, chat=chat, system=None, adds_bos=False, parameters=())
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    assert conversation_of(chat, spec, ["a", "c"], ["b"]) == chat.render(talk)


def test_no_empty_option_is_given() -> None:
    """PowerShell would drop it, and an empty stop would end every answer at once."""
    bare = ChatFormat("bare", "", None, Turn("", ""), Turn("", "</s>"), "", ("</s>",))
    for parameters in ((), (("stop", "User:"),)):
        assert "" not in turn_options(replace(SPEC, chat=bare, parameters=parameters), bare).options


# Hostile texts


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_system_prompt_reaches_llama_cli(shell: str, name: str, tmp_path: Path) -> None:
    machine = Machine(tmp_path, "llama-cli")
    folder = packaged(replace(SPEC, system=HOSTILE[name]), tmp_path / "package")
    done = machine.run(shell, str(folder / "chat.sh"), "-st", "-p", HOSTILE["substitution"], cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (7, "", "")
    assert machine.recorded() == [
        *("llama-cli", "-m", str(folder / "tiny-q4_0.gguf"), *LLAMA_CLI),
        *("-sys", HOSTILE[name], "-st", "-p", HOSTILE["substitution"]),
    ]
    assert not list(tmp_path.rglob("pwned"))


@pytest.mark.parametrize("shell", DISTINCT_SHELLS)
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_texts_reach_older_programs(shell: str, name: str, tmp_path: Path) -> None:
    machine = Machine(tmp_path, "llama-completion")
    chat = named_format("chatml")
    spec = replace(SPEC, chat=chat, system=HOSTILE[name], parameters=(("stop", HOSTILE[name]),))
    folder = packaged(SPEC, tmp_path / "package")
    # By itself, because a Modelfile cannot carry every one of these as a stop.
    (folder / "chat.sh").write_bytes(chat_sh(spec).encode())
    done = machine.run(shell, str(folder / "chat.sh"), cwd=tmp_path)
    assert done.returncode == 7
    options = machine.recorded()
    expected = f"<|im_start|>system\n{HOSTILE[name]}<|im_end|>\n<|im_start|>user\n"
    assert unescaped(options[options.index("-p") + 1]) == expected
    assert [unescaped(options[i + 1]) for i, option in enumerate(options) if option == "-r"] == [
        *("\n<|im_start|>user\n", HOSTILE[name])
    ]
    assert not list(tmp_path.rglob("pwned"))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_reaches_llama_cli_or_is_refused(name: str, tmp_path: Path) -> None:
    machine = Machine(tmp_path, "llama-cli")
    file = f"{HOSTILE[name]}.gguf"
    spec = replace(SPEC, name=HOSTILE[name], models=(PackagedModel(file, "q4_0"),))
    if name not in ("single quotes", "braces", "chinese", "dash", "spaces", "long"):
        with pytest.raises(OutputError, match="cannot be a file name in a package"):
            render_package(spec)
        # Not as a file's name, but it still stands in the script's comment.
        spec, file = replace(spec, models=SPEC.models), SPEC.models[0].file
    if name == "long":
        with pytest.raises(OSError, match="name too long"):
            (tmp_path / file).touch()
        return
    folder = packaged(spec, tmp_path / "package")
    for shell in DISTINCT_SHELLS:
        done = machine.run(shell, str(folder / "chat.sh"), cwd=tmp_path)
        assert (done.returncode, done.stdout, done.stderr) == (7, "", "")
        assert machine.recorded() == ["llama-cli", "-m", f"{folder}/{file}", *LLAMA_CLI]
    assert not list(tmp_path.rglob("pwned"))


@pytest.mark.parametrize("shell", DISTINCT_SHELLS)
@pytest.mark.parametrize("name", [name for name, text in HOSTILE.items() if len(text) < 100])
def test_the_script_runs_in_a_hostile_folder(shell: str, name: str, tmp_path: Path) -> None:
    machine = Machine(tmp_path, "llama-cli")
    folder = packaged(SPEC, tmp_path / HOSTILE[name])
    for cwd, script in ((tmp_path, f"./{HOSTILE[name]}/chat.sh"), (folder, "chat.sh")):
        done = machine.run(shell, script, cwd=cwd)
        assert (done.returncode, done.stdout, done.stderr) == (7, "", "")
        assert machine.recorded() == ["llama-cli", "-m", f"{folder}/{SPEC.models[0].file}", *LLAMA_CLI]
    assert not list(tmp_path.rglob("pwned"))


@pytest.mark.parametrize("shell", DISTINCT_SHELLS)
@pytest.mark.parametrize(
    "folder",
    [
        "plain",
        "with space",
        "new\nline",
        "ends in a line end\n",
        "-dash",
        "star*[a]?",
        "$(touch pwned)",
        "bytes \udcff",
    ],
    ids=ascii,
)
def test_the_script_finds_its_folder(shell: str, folder: str, tmp_path: Path) -> None:
    machine = Machine(tmp_path, "llama-cli")
    there = packaged(SPEC, tmp_path / folder)
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "relative").symlink_to(Path("..") / folder / "chat.sh")
    (tmp_path / "links" / "chain").symlink_to("relative")
    (tmp_path / "absolute link").symlink_to(there / "chat.sh")
    for cwd, script in (
        (tmp_path, str(there / "chat.sh")),
        (tmp_path, f"./{folder}/chat.sh"),
        (there, "chat.sh"),
        (there, "./chat.sh"),
        (tmp_path, "links/chain"),
        (tmp_path / "links", "relative"),
        (there, str(tmp_path / "absolute link")),
    ):
        machine.record.unlink(missing_ok=True)
        done = machine.run(shell, script, cwd=cwd)
        assert (done.returncode, done.stderr) == (7, ""), script
        assert machine.recorded()[:3] == ["llama-cli", "-m", f"{there}/tiny-q4_0.gguf"], script
    assert not list(tmp_path.rglob("pwned"))


@pytest.mark.parametrize("name", NOT_CARRIED)
def test_what_no_command_line_carries_is_refused_by_name(name: str) -> None:
    text = NOT_CARRIED[name]
    for changes, what in (({"system": text}, "the system prompt"), ({"parameters": (("stop", text),)}, "stop")):
        with pytest.raises(ChatFormatError, match=f"^{what} .*(NUL|Unicode)"):
            render_package(replace(SPEC, **changes))  # type: ignore[arg-type]
    with pytest.raises(OutputError, match="cannot be a file name"):
        render_package(replace(SPEC, models=(PackagedModel(text, "q4_0"),)))


@pytest.mark.parametrize("shell", SHELLS)
def test_the_longest_system_prompt(shell: str, tmp_path: Path) -> None:
    """Linux takes arguments of 128 KiB with the zero byte that ends them."""
    machine = Machine(tmp_path, "llama-cli")
    longest = replace(SPEC, chat=OWN, system="x" * (128 * 1024 - 1))
    folder = packaged(longest, tmp_path / "package")
    assert machine.run(shell, str(folder / "chat.sh"), cwd=tmp_path).returncode == 7
    assert machine.recorded()[-1] == longest.system
    for spec in (replace(longest, system=f"{longest.system}x"), replace(SPEC, system="\\" * 40_000)):
        with pytest.raises(ChatFormatError, match=r"the system prompt is too long for chat\.sh"):
            write_package(spec, tmp_path / "refused")
    with pytest.raises(ChatFormatError, match=r"a stop is too long for chat\.sh"):
        write_package(replace(SPEC, parameters=(("stop", "x" * 128 * 1024),)), tmp_path / "refused")
    assert not (tmp_path / "refused").exists()


# Style, and PowerShell


@pytest.mark.parametrize(
    "spec",
    [
        SPEC,
        replace(SPEC, name="n\n'$(x)", system=HOSTILE["substitution"], parameters=(("stop", '"`x` $y'),)),
        replace(SPEC, chat=OWN),
        replace(SPEC, chat=OWN, system="Be brief."),
    ],
    ids=["plain", "hostile", "own template", "own template, system"],
)
def test_shellcheck(spec: PackageSpec, tmp_path: Path) -> None:
    (script := tmp_path / "chat.sh").write_text(render_package(spec)["chat.sh"], encoding="utf-8")
    for shell in ("sh", "dash", "bash"):
        command = [str(SHELLCHECK), "--norc", f"--shell={shell}", "--severity=style", str(script)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def powershell_literals(script: str) -> list[str]:
    """The single-quoted literals of a script, as PowerShell reads them."""
    quote = "['\u2018\u2019\u201a\u201b]"
    pieces = re.finditer(f'#.*|"[^"]*"|{quote}((?:[^\'\u2018-\u201b]|{quote}{{2}})*){quote}', script)
    return [re.sub(f"({quote}){quote}", r"\1", found[1]) for found in pieces if found[1] is not None]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_texts_are_literals_of_the_powershell_script(name: str) -> None:
    plain = replace(SPEC, system="S", parameters=(("stop", "T"),))
    hostile = replace(SPEC, system=HOSTILE[name], parameters=(("stop", HOSTILE[name]),))
    found = [powershell_literals(chat_ps1(spec)) for spec in (plain, hostile)]
    assert len(found[0]) == len(found[1])
    chat = named_format("chatml")
    assert {(old, new) for old, new in zip(*found, strict=True) if old != new} == {
        ("S", HOSTILE[name]),
        ("T", llama_cli_options(hostile)[-1]),
        (turn_options(plain, chat).prompt, turn_options(hostile, chat).prompt),
    }


def test_powershell_script_reads_as_utf_8_and_holds_the_prompt() -> None:
    text = render_package(replace(SPEC, system="it's ‘so’\n$(x) 你好"))["chat.ps1"]
    assert text.startswith("\ufeff#")
    assert "$system = 'it''s ‘‘so’’\n$(x) 你好'\n" in text
    assert "-sysf" not in render_package(SPEC)["chat.ps1"]


def test_powershell_script_knows_the_same_programs() -> None:
    turns, own = (render_package(spec)["chat.ps1"] for spec in (SPEC, replace(SPEC, chat=OWN, system="Be brief.")))
    assert (
        "'-if', '-e', '-r', '\\n<|im_start|>user\\n', '--in-suffix', '<|im_end|>\\n<|im_start|>assistant\\n'" in turns
    )
    assert "$text = '<|im_start|>user\\n'\n    $textOption = '-f'" in turns
    assert "(Test-Program 'main') -and " in turns
    assert "& main --help 2>&1)\".Contains('--in-prefix')" in turns  # other programs have that name too
    assert "} elseif (Test-OldMain) {\n    $program = 'main'" in turns
    assert "main" not in re.sub(r"#.*", "", own)
    assert "'--jinja', '-cnv', '-ngl', '999'" in own
    assert own.count("$textOption = '-sysf'") == 2
