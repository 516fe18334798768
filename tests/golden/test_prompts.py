"""Prompts by three engines: transformers' Jinja, llama.cpp, and Ollama's TEMPLATE by Go's own text/template.

Every difference has a name: one that nobody predicted fails here, and so does one that was predicted and is not there.
"""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quantkit.chat_template.format import ChatFormat, Shape
from quantkit.package.differences import Cause
from quantkit.package.go_template import go_template
from tests.support import go_prompts
from tests.support.go_prompts import GoError, Job, Talk, ollama_prompt, ollama_prompts
from tests.support.prompt_causes import IdCause, ollama_causes
from tests.support.prompt_matrix import (
    COLUMNS,
    VOCABULARIES,
    PromptMatrix,
    compare,
    described_formats,
    format_templates,
    legend,
)
from tests.support.prompt_talks import TALKS

RENDERS: dict[str, Any] = json.loads(Path(__file__).with_name("ollama_renders.json").read_text("utf-8"))
# Of those that turns cannot describe: one that thinks, one that is told to, one with a date.
OWN = ("Qwen-Qwen3-0.6B", "google-gemma-4-31B-it", "openai-gpt-oss-120b")


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> PromptMatrix:
    return PromptMatrix(tmp_path_factory.mktemp("prompts"), small=True)


def test_go_gives_every_prompt_that_a_server_built() -> None:
    """Only after this can anything else be believed."""
    jobs, recorded = [], []
    for name, template in RENDERS["templates"].items():
        cases = [case for case in RENDERS["renders"] if case["template"] == name]
        talks = [Talk(RENDERS["conversations"][case["conversation"]], case["system"]) for case in cases]
        jobs.append(Job(template, talks))
        recorded.append([case["prompt"] for case in cases])
    assert sum(map(len, recorded)) == len(RENDERS["renders"]) == 224
    assert ollama_prompts(jobs) == recorded


def test_an_old_server_feeds_rounds() -> None:
    template = "{{ if .Messages }}new{{ end }}{{ .System }}[{{ .Prompt }}]{{ if .Prompt }}({{ .Response }}){{ end }};"
    messages = [
        {"role": role, "content": text}
        for role, text in (("system", "s"), ("user", "a"), ("user", "b"), ("assistant", "c"), ("user", "d"))
    ]
    assert ollama_prompt(template, messages) == "news[<no value>];"
    assert ollama_prompt(template, messages, old=True) == "s[a\n\nb](c);[d]("


@pytest.mark.parametrize("template", ["{{ if }}", "{{ .Messages.x }}", "{{ nothing .Prompt }}"])
def test_go_refuses_what_is_no_template(template: str) -> None:
    with pytest.raises(GoError, match="template"):
        ollama_prompt(template, TALKS["question"])


def test_a_missing_go_is_an_error_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(go_prompts, "_program", go_prompts._program.__wrapped__)
    with pytest.raises(GoError, match=r"pip install -e '\.\[dev\]'"):
        ollama_prompt("{{ .Prompt }}", TALKS["question"])


def test_the_matrix_is_whole() -> None:
    assert len(TALKS) == 50
    assert len(described_formats()) == 45
    assert len(format_templates()) == 89
    assert VOCABULARIES.keys() <= format_templates().keys()


@pytest.mark.parametrize("name", [*described_formats(), *OWN])
def test_every_difference_has_a_name_and_every_name_a_difference(matrix: PromptMatrix, name: str) -> None:
    cells = matrix.cells(name)
    assert set(cells) >= {"llama.cpp", *(["Go TEMPLATE"] if name not in OWN else [])}
    assert set(cells) <= set(COLUMNS)
    for column, cell in cells.items():
        assert (column, cell.unnamed, cell.absent) == (column, [], [])
    assert any(prompt is not None for prompt in matrix.prompts(name).theirs.values())


def test_token_ids_with_a_whole_vocabulary(tmp_path: Path) -> None:
    """One of its ordinary tokens is taken for a special one; a cut vocabulary has no such token."""
    cell = PromptMatrix(tmp_path, small=False).cells("chatml")["token ids"]
    assert cell.sound
    assert {IdCause.COMPOSED, IdCause.TAKEN_FOR} == set(cell.causes)


def test_a_report_that_says_too_little_or_too_much_is_found(matrix: PromptMatrix) -> None:
    prompts = matrix.prompts("llama-3")
    row = prompts.format
    assert isinstance(row.chat, ChatFormat)
    pairs = {talk: (text, prompts.ollama[talk]) for talk, text in prompts.theirs.items()}
    silent = compare(replace(row, chat=replace(row.chat, trims=())), pairs, ollama_causes)
    assert "leading spaces" in silent.unnamed
    assert not silent.absent
    loud = compare(replace(row, chat=replace(row.chat, unlike=(Shape.EMPTY_SYSTEM,))), pairs, ollama_causes)
    assert (loud.unnamed, loud.absent) == ([], ["empty system"])
    other = go_template(replace(row.chat, generation="<|start_header_id|>assistant<|end_header_id|>\n"))
    wrong = {talk: (prompts.theirs[talk], ollama_prompt(other, TALKS[talk])) for talk in ("question", "system")}
    assert compare(row, wrong, ollama_causes).unnamed == ["question", "system"]


def test_a_cell_says_its_causes_by_letter(matrix: PromptMatrix) -> None:
    cell = matrix.cells("llama-3")["Go TEMPLATE"]
    assert cell.sound
    assert set(cell.causes) == {Cause.WHITE_SPACE, Cause.ROW}
    spaces, rows = cell.causes[Cause.WHITE_SPACE], cell.causes[Cause.ROW]
    assert str(cell) == f"{cell.total - spaces - rows}/{cell.total} a{spaces} c{rows}"
    assert legend([cell]) == [f"a  {Cause.WHITE_SPACE}", f"c  {Cause.ROW}"]
    assert str(replace(cell, named={}, unnamed=["question"])) == "49/50 RED: question"
