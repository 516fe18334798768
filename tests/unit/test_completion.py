"""Completion: what is offered where, without a heavy import, by click's protocol for each shell and in a real bash.

zsh, fish and PowerShell themselves are not run: their scripts are looked at, and their end of the protocol is played.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from quantkit.chat_template.format import FORMAT_NAMES
from quantkit.cli.completion import SHELLS, command
from quantkit.cli.main import COMMANDS, COMPLETE_VARIABLE, cli
from quantkit.ggml.types import ENCODABLE, FTYPES

REPOSITORY = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "transformers", "peft", "llama_cpp", "rich", "jinja2", "numpy")

# what was typed, the kind of the completions, and some of them
OFFERS = [
    ([], "b", "plain", ["build"]),
    ([], "--v", "plain", ["--version"]),
    (["build"], "", "file", [""]),
    (["build", "--adapter"], "./lo", "file", ["./lo"]),
    (["build", "x", "--adapter-scaled"], "lo", "file", ["lo"]),
    (["build", "-o"], "o", "file", ["o"]),
    (["build", "x", "--quant"], "", "plain", list(FTYPES)),
    (["build", "x", "--quant"], "Q4_K", "plain", ["q4_k_s", "q4_k_m"]),
    (["build", "x", "--outtype"], "", "plain", ["f16", "bf16", "f32"]),
    (["build", "x", "--device"], "c", "plain", ["cpu", "cuda"]),
    (["build", "x", "--output-tensor-type"], "q6", "plain", ["q6_k"]),
    (["build", "x", "--token-embedding-type"], "bf", "plain", ["bf16"]),
    (["build", "x", "--recipe"], "r", "file", ["r"]),
    (["merge"], "m", "file", ["m"]),
    (["merge", "--dtype"], "b", "plain", ["bf16"]),
    (["convert"], "m", "file", ["m"]),
    (["quantize"], "m", "file", ["m"]),
    (["quantize", "x", "--quant"], "q8", "plain", ["q8_0"]),
    (["edit"], "m", "file", ["m"]),
    (["edit", "x", "-o"], "o", "file", ["o"]),
    (["package"], "m", "file", ["m"]),
    (["inspect"], "m", "file", ["m"]),
    (["verify"], "m", "file", ["m"]),
    (["smoke"], "m", "file", ["m"]),
    (["chat"], "m", "file", ["m"]),
    (["serve"], "m", "file", ["m"]),
    (["demo"], "m", "file", ["m"]),
    (["ollama"], "", "plain", ["create"]),
    (["ollama", "create"], "m", "file", ["m"]),
    (["completion"], "", "plain", list(SHELLS)),
]


def offered(args: list[str], incomplete: str) -> list[tuple[str, str]]:
    found = ShellComplete(cli, {}, "quantkit", COMPLETE_VARIABLE).get_completions(args, incomplete)
    return [(item.type, item.value) for item in found]


@pytest.mark.parametrize(("args", "incomplete", "kind", "values"), OFFERS)
def test_offers(args: list[str], incomplete: str, kind: str, values: list[str]) -> None:
    assert offered(args, incomplete) == [(kind, value) for value in values]


def test_commands_come_with_their_help() -> None:
    found = ShellComplete(cli, {}, "quantkit", COMPLETE_VARIABLE).get_completions([], "")
    assert {item.value: item.help for item in found} == COMMANDS


def test_a_template_is_a_name_or_a_file() -> None:
    assert offered(["build", "--template"], "") == [
        ("file", ""),
        *(("plain", name) for name in ("auto", *FORMAT_NAMES)),
    ]
    assert offered(["build", "--template"], "./my") == [("file", "./my")]


def test_tensor_types_are_those_of_ggml() -> None:
    labels = [kind.label.lower() for kind in ENCODABLE]
    assert offered(["build", "--output-tensor-type"], "") == [("plain", label) for label in labels]


def test_nothing_heavy_is_imported() -> None:
    script = f"""
import sys
from click.shell_completion import ShellComplete
from quantkit.cli.main import COMMANDS, cli
for args in [[], *([name] for name in COMMANDS), *(args for args, *_ in {OFFERS!r}), ["build", "--template"]]:
    for incomplete in ("", "-"):
        ShellComplete(cli, {{}}, "quantkit", "_X").get_completions(args, incomplete)
        found = [name for name in {HEAVY!r} if name in sys.modules]
        assert not found, (args, incomplete, found)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def asked(shell: str, **typed: str) -> str:
    """What ``quantkit`` answers to the script of a shell."""
    done = subprocess.run(
        [sys.executable, "-m", "quantkit"], cwd=REPOSITORY, capture_output=True, text=True, check=False,
        env={**os.environ, COMPLETE_VARIABLE: f"{shell}_complete", **typed},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("shell", SHELLS)
def test_the_protocol(shell: str) -> None:
    before = {"bash": " ", "zsh": " ", "fish": " ", "powershell": "\n"}[shell].join(
        ["quantkit", "build", "x", "--quant"]
    )
    cursor = {
        "bash": {"COMP_WORDS": f"{before} q4_k", "COMP_CWORD": "4"},
        "zsh": {"COMP_WORDS": f"{before} q4_k", "COMP_CWORD": "4"},
        "fish": {"COMP_WORDS": before, "COMP_CWORD": "q4_k"},
        "powershell": {"COMP_WORDS": before, "COMP_WORD": "q4_k"},
    }[shell]
    answer = asked(shell, **cursor)
    assert [word for word in answer.replace(",", " ").replace("\t", " ").split() if word.startswith("q")] == [
        "q4_k_s", "q4_k_m",
    ]  # fmt: skip


def test_powershell_is_told_kind_value_and_help() -> None:
    lines = asked("powershell", COMP_WORDS="quantkit").split("\n")
    assert lines[0] == f"plain\tbuild\t{COMMANDS['build']}"
    assert asked("powershell", COMP_WORDS="quantkit\ninspect", COMP_WORD="my model") == "file\tmy model\t\n"


@pytest.mark.parametrize(
    ("shell", "says"),
    [
        ("bash", "complete -o nosort -F _quantkit_completion quantkit"),
        ("zsh", "#compdef quantkit"),
        ("fish", "complete --no-files --command quantkit"),
        ("powershell", "Register-ArgumentCompleter -Native -CommandName quantkit"),
    ],
)
def test_the_script(shell: str, says: str) -> None:
    done = CliRunner().invoke(cli, ["completion", shell])
    assert done.exit_code == 0
    assert says in done.stdout
    assert f"{COMPLETE_VARIABLE}" in done.stdout
    assert f"{shell}_complete" in done.stdout
    assert "%(" not in done.stdout


def test_an_unknown_shell() -> None:
    assert CliRunner().invoke(command, ["tcsh"]).exit_code == 2


def test_in_bash(tmp_path: Path) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("bash is not installed")
    program = tmp_path / "quantkit"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m quantkit "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    script = """
source <(quantkit completion bash)
complete -p quantkit
compopt() { echo compopt "$@"; }
try() {
    COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
    _quantkit_completion quantkit
    echo "${COMPREPLY[*]}"
}
try quantkit q
try quantkit build x --quant q4_k
try quantkit build x --template ph
try quantkit build ./x
"""
    done = subprocess.run(
        [bash, "--norc", "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=False,
        env={**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "complete -o nosort -F _quantkit_completion quantkit",
        "quantize",
        "q4_k_s q4_k_m",
        "compopt -o default",
        "phi-3",
        "compopt -o default",
        "",
    ]
