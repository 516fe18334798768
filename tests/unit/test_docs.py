"""What README.md and docs/ say is so: their commands parse, their links and anchors lead somewhere, no page is lost."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import pytest

from quantkit.chat_template.format import FORMAT_NAMES
from quantkit.cli.main import COMMANDS, cli
from quantkit.ggml.types import ftype_name
from quantkit.jobs.recipe import Recipe
from quantkit.jobs.recipe_fields import RECIPE_FIELDS
from quantkit.ollama.parameters import check_parameters
from tests.support.documents import (
    DOCS,
    INDEX,
    ROOT,
    Block,
    anchors,
    blocks,
    headings,
    links,
    pages,
    resolve,
    words,
)

# What else a reader is told to type; a word that is neither this nor quantkit is a slip.
PROGRAMS = {
    ".", ".venv/bin/pip", ".venv/bin/python", "build/bin/llama-cli", "build/bin/llama-imatrix",
    "build/bin/llama-quantize", "cat", "cd", "cmake", "cp", "curl", "echo", "git", "hf", "llama-cli", "llama-server",
    "make", "mergekit-extract-lora", "mergekit-yaml", "modelscope", "ollama", "pip", "powershell", "printf", "pytest",
    "python", "sh",
}  # fmt: skip
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
ALL = [block for page in pages() for block in blocks(page)]
SHELL = [block for block in ALL if block.language == "sh"]


def parse(arguments: Sequence[str]) -> click.Context:
    """What click makes of quantkit's arguments: options exist and their values are valid. Nothing runs."""
    command: click.Command = cli
    context = click.Context(cli, **cli.context_settings)
    rest = list(arguments)
    while isinstance(command, click.Group):
        inner = command.get_command(context, rest[0])
        assert inner is not None, f"there is no command {rest[0]!r}"
        command, rest = inner, rest[1:]
    return command.make_context(str(command.name), rest, resilient_parsing=False)


def check_values(params: dict[str, Any]) -> None:
    """What click leaves to the jobs: names of types, parameters, templates."""
    if quant := params.get("quant"):
        ftype_name(quant)
    check_parameters(params.get("parameters") or ())
    if (template := params.get("template")) and not template.endswith(".jinja"):
        assert template in ("auto", *FORMAT_NAMES)
    settings = {name: value for name, value in params.items() if name in RECIPE_FIELDS and value not in (None, ())}
    settings.setdefault("model", "model")
    Recipe(**settings)


@pytest.mark.parametrize("block", SHELL, ids=[block.where for block in SHELL])
def test_every_command_parses(block: Block) -> None:
    if block.mark.startswith("not checked"):
        return
    for line in block.commands():
        for program, *arguments in words(line):
            if program == "quantkit":
                with parse(arguments) as context:
                    if context.command.name != "completion":
                        check_values(context.params)
                continue
            assert program in PROGRAMS, f"{block.where}: {program}"
            if program == "make":
                assert re.search(rf"^{arguments[0]}:", MAKEFILE, re.MULTILINE), line
            if arguments and arguments[0].startswith("scripts/"):
                assert (ROOT / arguments[0]).is_file(), line


def test_commands_are_in_blocks_that_are_checked() -> None:
    """A block of commands says that it is one; one without a language is output or a drawing."""
    for block in ALL:
        if block.language not in ("sh", "text"):
            for line in block.text.splitlines():
                assert not re.match(r"(quantkit|make|pip|ollama) ", line), f"{block.where}: call it sh: {line}"


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for target in links(page):
        if re.match(r"(https?|mailto):", target):
            continue
        path, anchor = resolve(page, target)
        assert path.exists(), f"{page.name}: {target}"
        assert path.is_relative_to(ROOT), f"{page.name}: {target} is outside"
        if anchor and path.suffix == ".md":
            assert anchor in anchors(path), f"{page.name}: {target}: no such heading"


def test_every_page_is_reached_from_the_index() -> None:
    reached: set[Path] = set()
    todo = [INDEX]
    while todo:
        page = todo.pop()
        if page in reached or page.suffix != ".md" or not page.is_file():
            continue
        reached.add(page)
        todo += [resolve(page, target)[0] for target in links(page) if "://" not in target]
    assert [path.relative_to(ROOT).as_posix() for path in pages() if path not in reached] == []


def test_every_command_has_its_page() -> None:
    """The index links each command to a page, which has it in a block that is checked."""
    text = INDEX.read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `quantkit (\w+)` \| \[[^\]]+\]\(([^)#]+)", text, re.MULTILINE))
    assert list(rows) == list(COMMANDS)
    for name, target in rows.items():
        typed = [line for block in blocks(DOCS / target) if block.language == "sh" for line in block.commands()]
        assert any(f"quantkit {name}" in line for line in typed), f"{target} does not show quantkit {name}"


def test_the_index_names_every_page_by_its_title() -> None:
    text = INDEX.read_text(encoding="utf-8")
    for label, target in re.findall(r"^- \[([^\]]+)\]\(([^)#]+\.md)\)", text, re.MULTILINE):
        assert label == headings((DOCS / target).resolve())[0][1], target


def test_headings_are_one_tree() -> None:
    for page in pages():
        levels = [level for level, _ in headings(page)]
        assert levels[:1] == [1], page
        assert levels.count(1) == 1, page
        for before, after in itertools.pairwise(levels):
            assert after <= before + 1, f"{page}: a heading of level {after} under one of level {before}"
