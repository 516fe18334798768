"""``chat.sh`` with llama.cpp's own programs, and a model whose answer is known."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from subprocess import PIPE
from threading import Timer
from typing import Any

import pytest
from tiny_gguf import LLAMA_3, Tiny, write_tiny_gguf

from quantkit.chat_template.format import ChatFormat, OwnTemplate, derive
from quantkit.package.render import write_package
from quantkit.package.spec import PackageSpec
from tests.support.llama_tools import apply_template, llama_tools
from tests.support.package_specs import SPEC
from tests.support.patience import PATIENCE

SHELLS = [shell for shell in ("sh", "dash", "bash") if shutil.which(shell)]

SYSTEM = "Be \"brief\" \\n, it's 'fine' $(x) `y`\n你好"
PARAMETERS = (("num_ctx", "512"), ("temperature", "0.25"), ("top_k", "7"), ("repeat_last_n", "3"), ("num_gpu", "0"))

# Each turn ends with a line end after the token that ends it, as in ChatML.
TAILED = LLAMA_3.replace("<|eot_id|>", "<|eot_id|>\n")
# Each byte is a token, also where the text is tokenized.
ANSWER = "Yes 🙂!"

EXAMPLE = ("-ngl", "0", "--temp", "0.7")  # of the script's help

FORMATS = {"llama-3": LLAMA_3, "line end after a turn": TAILED}


class Installed:
    """A package of the tiny model, and a PATH with some of llama.cpp's programs and readlink."""

    def __init__(self, root: Path, spec: PackageSpec, template: str, *programs: str) -> None:
        self.log = root / "log.txt"
        self.folder = root / "package"
        self.bin = root / "bin"
        write_package(spec, self.folder)
        self.model = write_tiny_gguf(self.folder / spec.models[0].file, Tiny(template=template, answer=ANSWER))
        self.bin.mkdir()
        os.symlink(str(shutil.which("readlink")), self.bin / "readlink")
        for program, name in zip(programs[::2], programs[1::2], strict=True):
            os.symlink(llama_tools() / program, self.bin / name)

    def chat(self, shell: str, *options: str, typed: str, answers: int) -> tuple[str, str]:
        """Type, wait for the answers, and end the input; what came out, and what was said beside.

        llama.cpp loses what it has not written yet when it ends, so the input may not end before the answers are there.
        """
        command = [str(shutil.which(shell)), str(self.folder / "chat.sh"), "--log-file", str(self.log), "-v", "-t", "1"]
        command += options
        environment = {"PATH": str(self.bin), "LC_ALL": "C.UTF-8"}
        said = self.folder.parent / "stderr.txt"
        with (
            said.open("wb") as stderr,
            subprocess.Popen(command, env=environment, stdin=PIPE, stdout=PIPE, stderr=stderr) as process,
        ):
            assert process.stdin is not None
            assert process.stdout is not None
            late = Timer(PATIENCE, process.kill)
            late.start()
            process.stdin.write(typed.encode())
            process.stdin.flush()
            out = b""
            while out.count(ANSWER.encode()) < answers and (piece := os.read(process.stdout.fileno(), 4096)):
                out += piece
            process.stdin.close()
            out += process.stdout.read()
            late.cancel()
        assert process.returncode == 0, out + said.read_bytes()
        return out.decode(), said.read_text(encoding="utf-8", errors="replace")

    def logged(self) -> str:
        """What the program wrote to its log, in which single tokens may be parts of a character."""
        return self.log.read_text(encoding="utf-8", errors="replace")


def of_format(template: str, **changes: Any) -> PackageSpec:
    chat = derive(template, bos_token="<|begin_of_text|>", eos_token="<|end_of_text|>")
    assert isinstance(chat, ChatFormat)
    return replace(SPEC, chat=chat, context_length=512, **changes)


def talk(*texts: str, system: str | None = None) -> list[dict[str, str]]:
    roles = ("user", "assistant")
    opened = [{"role": "system", "content": system}] if system else []
    return opened + [{"role": roles[index % 2], "content": text} for index, text in enumerate(texts)]


def server_reports(log: str) -> list[dict[str, Any]]:
    """What llama-cli's server logs of each answer it ended."""
    chunks = re.findall(r"streamed chunk: data: (\{.*\})", log)
    return [chunk["__verbose"] for chunk in map(json.loads, chunks) if chunk.get("__verbose", {}).get("stop")]


@pytest.mark.parametrize("shell", SHELLS)
def test_llama_cli(shell: str, tmp_path: Path) -> None:
    spec = of_format(LLAMA_3, system=SYSTEM, parameters=(*PARAMETERS, ("stop", 'a\\"b')))
    installed = Installed(tmp_path, spec, LLAMA_3, "llama-cli", "llama-cli")
    out, _ = installed.chat(shell, "--seed", "42", typed="hi\nagain\n", answers=2)
    assert out.count(f"\n{ANSWER}\n") == 2
    conversations = [talk("hi", system=SYSTEM), talk("hi", ANSWER, "again", system=SYSTEM)]
    expected = apply_template(installed.model, conversations)
    reports = server_reports(installed.logged())
    assert ["<|begin_of_text|>" + rendering.prompt for rendering in expected if rendering.prompt] == [
        report["prompt"] for report in reports
    ]
    assert [len(rendering.tokens) for rendering in expected] == [report["tokens_evaluated"] for report in reports]
    for report in reports:
        settings = report["generation_settings"]
        assert (settings["temperature"], settings["top_k"], settings["repeat_last_n"]) == (0.25, 7, 3)
        assert (settings["stop"], settings["seed"]) == (['a\\"b'], 42)
        assert report["stop_type"] == "eos"


def test_llama_cli_for_one_question(tmp_path: Path) -> None:
    installed = Installed(tmp_path, of_format(LLAMA_3), LLAMA_3, "llama-cli", "llama-cli")
    out, _ = installed.chat("sh", *EXAMPLE, "-st", "-p", "hi", typed="", answers=1)
    assert f"> hi\n{ANSWER}\n" in out


def evaluated(log: str) -> list[list[int]]:
    """The ids of the prompt, and those of each later piece of text, that llama-completion took in."""
    lines = log.split("\n")
    pieces: list[list[int]] = []
    for index, line in enumerate(lines):
        if found := re.search(r"number of tokens in prompt = (\d+)", line):
            ids = [int(id_[1]) for later in lines[index:] if (id_ := re.search(r" I +(\d+) -> '", later))]
            pieces.append(ids[: int(found[1])])
    return pieces


@pytest.mark.parametrize(("program", "shell"), [("main", "sh"), *(("llama-completion", shell) for shell in SHELLS)])
@pytest.mark.parametrize("system", [None, SYSTEM], ids=["plain", "system"])
@pytest.mark.parametrize("name", FORMATS)
def test_older_programs(name: str, system: str | None, program: str, shell: str, tmp_path: Path) -> None:
    """Two questions: all tokens are those that the server has for the conversation."""
    template = FORMATS[name]
    spec = of_format(template, system=system, parameters=PARAMETERS)
    installed = Installed(tmp_path, spec, template, "llama-completion", program)
    # A real main had no other mode, and no option for it.
    options = ["--verbose-prompt", "--simple-io", *(["-no-cnv"] if program == "main" else [])]
    out, said = installed.chat(shell, *options, typed="hi\nagain\n", answers=2)
    assert said.startswith(f"llama-cli is not installed; using {program}\n")
    assert out.count(ANSWER) == 2

    first, second = apply_template(
        installed.model, [talk("hi", system=system), talk("hi", ANSWER, "again", system=system)]
    )
    opening, question, another = evaluated(installed.logged())
    assert tuple(opening + question) == first.tokens
    taken_in = [int(size) for size in re.findall(r"embd_inp\.size\(\): (\d+)", installed.logged())]
    between = taken_in[-1] - len(opening + question + another)  # what -r wrote
    generated = len(ANSWER.encode()) + 1
    rest = second.tokens[len(first.tokens) + generated :]
    assert rest[between:] == tuple(another)
    assert len(rest) == between + len(another)
    assert (between > 0) == (name == "line end after a turn" and system is None)


def test_the_template_itself_in_llama_completion(tmp_path: Path) -> None:
    own = OwnTemplate("it counts", ("<|eot_id|>",), takes_system=True)
    spec = replace(SPEC, chat=own, system=SYSTEM, parameters=PARAMETERS)
    installed = Installed(tmp_path, spec, LLAMA_3, "llama-completion", "llama-completion")
    out, _ = installed.chat("sh", *EXAMPLE, "--simple-io", typed="hi\n", answers=1)
    assert out.count(ANSWER) == 1
    (expected,) = apply_template(installed.model, [talk("hi", system=SYSTEM)])
    assert int(re.findall(r"embd_inp\.size\(\): (\d+)", installed.logged())[-1]) == len(expected.tokens)
