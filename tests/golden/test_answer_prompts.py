"""Prompts with thoughts and tools: transformers, llama.cpp, Go's TEMPLATE, token ids; every difference has a name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from quantkit.chat_template.answers import as_template_reads
from quantkit.chat_template.format import ChatFormat, derive
from quantkit.errors import ChatFormatError
from tests.support.answer_prompts import TALKS, AnswerPrompts, form_of, templates
from tests.support.chat_templates import real_templates
from tests.support.prompt_matrix import VOCABULARIES, PromptMatrix

# As test_answer_formats.py finds them: to look at every template takes seconds, in each process that collects tests.
TABLE = json.loads(Path(__file__).with_name("answer_formats.json").read_text(encoding="utf-8"))
NAMES = sorted(name for name, found in TABLE.items() if found.keys() & {"thoughts", "calls"})


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> AnswerPrompts:
    return AnswerPrompts(PromptMatrix(tmp_path_factory.mktemp("prompts"), small=True))


@pytest.mark.parametrize("name", NAMES)
def test_every_difference_has_a_name(rows: AnswerPrompts, name: str) -> None:
    form = form_of(name)
    cells = rows.cells(name, form)
    for column, cell in cells.items():
        assert (column, cell.unnamed, cell.absent) == (column, [], [])
    assert cells["llama.cpp"].total >= (6 if form.calls and form.thoughts else 1)
    if name in VOCABULARIES:
        assert cells["token ids"].total


def test_every_template_has_its_row() -> None:
    assert list(templates()) == NAMES


def test_a_new_ollama_uses_the_jinja_of_what_thinks_or_calls_tools() -> None:
    """Where there is a TEMPLATE too, the Jinja mentions what it lacks, so Ollama 0.33 and later prefer the Jinja."""
    described = {}
    for name in NAMES:
        try:
            described[name] = derive(real_templates()[name], bos_token="<s>", eos_token="</s>")
        except ChatFormatError:
            continue  # it refuses a conversation without tools
    turns = [chat for chat in described.values() if isinstance(chat, ChatFormat)]
    assert len(turns) >= 15
    assert all(chat.mentions_tools for chat in turns)


def test_a_conversion_that_is_left_out_is_seen() -> None:
    """Arguments as text, as OpenAI has them, are not what most templates write."""
    form = form_of("Qwen-Qwen2.5-7B-Instruct")
    talk = TALKS["a call and its result"]
    (_, converted, _) = as_template_reads(talk, form)
    assert converted["tool_calls"][0]["function"]["arguments"] == {"city": 'Paris "二"', "days": 2}
    assert talk[1]["tool_calls"][0]["function"]["arguments"] == '{"city": "Paris \\"二\\"", "days": 2}'
