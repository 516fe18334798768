"""The worked examples of docs/ are one session on the demo's model, in the order of the index: what they print is so.

Blocks marked ``<!-- runs -->`` are executed; the ``text`` block that follows one is what its commands print, with any
figures in the place of its own and any lines where it has a line of three dots.
"""

from __future__ import annotations

import itertools
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from quantkit.cli.main import main
from tests.support.documents import DOCS, INDEX, ROOT, Block, blocks, links, resolve, words
from tests.support.patience import PATIENCE

# These load llama.cpp, which wants a process without torch; the others share this one, and its imports.
APART = {"chat", "serve"}


@dataclass(frozen=True)
class Example:
    """A block that runs, and the block of what it prints, if there is one."""

    block: Block
    printed: Block | None


def in_order() -> list[Path]:
    """The pages of docs/ as the index lists them."""
    targets = [resolve(INDEX, target)[0] for target in links(INDEX) if "://" not in target]
    return [page for page in dict.fromkeys(targets) if page.parent == DOCS and page.suffix == ".md"]


def examples() -> list[Example]:
    found = []
    for page in in_order():
        on_page = blocks(page)
        for block, after in itertools.zip_longest(on_page, on_page[1:]):
            if block.mark == "runs":
                found.append(Example(block, after if after is not None and after.language == "text" else None))
    return found


EXAMPLES = examples()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the session runs, with the checkout's folder and a ``quantkit`` for the shell."""
    here = tmp_path_factory.mktemp("session")
    (here / "quantkit").symlink_to(ROOT / "quantkit", target_is_directory=True)
    program = here / ".bin" / "quantkit"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m quantkit "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    return here


def in_shell(line: str, folder: Path) -> str:
    path = f"{folder / '.bin'}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        ["sh", "-c", line],
        cwd=folder,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, f"{line}\n{done.stderr}"
    return done.stdout


def in_this_process(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as leaving:
        main(arguments)
    said = capsys.readouterr()
    assert leaving.value.code == 0, f"{shlex.join(arguments)}\n{said.err}"
    return said.out


def pattern(printed: str) -> re.Pattern[str]:
    """What a block of output stands for: any figures, and anything for three dots."""
    lines = []
    for line in printed.splitlines():
        if line == "...":
            lines.append(r"(?:.*\n)*?")
            continue
        parts = [re.sub(r"\d+(?:\\.\d+)*", r"[\\d.]+", re.escape(part)) for part in line.split("...")]
        lines.append(".*".join(parts) + r"\s*?\n")
    return re.compile("".join(lines))


@pytest.mark.skipif(os.name == "nt", reason="the examples are for a POSIX shell")
def test_the_examples_run(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(folder)
    assert len({example.block.page for example in EXAMPLES}) >= 9, "every job has a worked example"
    for example in EXAMPLES:
        out = ""
        for line in example.block.commands():
            commands = list(words(line))
            plain = len(commands) == 1 and not set("|<>") & set(line)
            if plain and commands[0][0] == "quantkit" and commands[0][1] not in APART:
                out += in_this_process(commands[0][1:], capsys)
            else:
                out += in_shell(line, folder)
        if example.printed is not None:
            shown = example.printed.text
            assert pattern(shown).fullmatch(out), f"{example.printed.where} says\n{shown}\nbut it is\n{out}"


def test_output_is_compared() -> None:
    shown = pattern("a  1.44 MB\n...\nnext: x ... y\n")
    assert shown.fullmatch("a  29.7 MB\nb\nc\nnext: x and y\n")
    assert not shown.fullmatch("a  29.7 kB\nb\nnext: x and y\n"), "another unit"
    assert not shown.fullmatch("a  1.44 MB\nb\n"), "the end is missing"
