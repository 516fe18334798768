"""``--thinking on|off`` writes the choice into the chat template, and proves that nothing else changes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_gguf import write_tiny_gguf

from quantkit.chat_template.advice import bake, bake_named, thinking_notes
from quantkit.chat_template.format import derive, named_template
from quantkit.chat_template.render import render_jinja
from quantkit.chat_template.thinking import find_thinking
from quantkit.chat_template.turns import ChatFormat
from quantkit.errors import ChatFormatError, QuantkitError
from quantkit.jobs.build import build
from quantkit.jobs.prepare import prepare
from quantkit.jobs.recipe import Recipe
from tests.checkpoints.case import edit_json
from tests.support.llama_tools import apply_template

Maker = Callable[..., Path]
TOKENS = {"bos_token": "<s>", "eos_token": "<|im_end|>"}
TURNS = named_template("chatml")
# As Qwen3 does: an empty thought is written only where thinking is switched off.
THINKS = TURNS.replace(
    "{{- '<|im_start|>assistant\\n' }}",
    "{{- '<|im_start|>assistant\\n' }}{% if enable_thinking is defined and enable_thinking is false %}"
    "{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}",
)
QUESTION = [{"role": "user", "content": "Hi"}]


def test_the_template_of_this_file() -> None:
    assert THINKS != TURNS
    assert find_thinking(THINKS, **TOKENS).switches == ("enable_thinking",)


@pytest.mark.parametrize("thinking", ["on", "off"])
@pytest.mark.parametrize("template", [THINKS, "  " + THINKS, "\n\n" + THINKS], ids=["plain", "indented", "lines"])
def test_the_choice_is_in_the_template(template: str, thinking: str) -> None:
    """Whatever a program says; and white space at the beginning stays."""
    baked = bake(template, thinking, **TOKENS)
    wanted = render_jinja(template, QUESTION, thinking=thinking == "on", **TOKENS)
    assert wanted.endswith("</think>\n\n") is (thinking == "off")
    for told in (None, True, False):
        assert render_jinja(baked, QUESTION, thinking=told, **TOKENS) == wanted
    assert thinking_notes(baked, **TOKENS) == []


def test_llama_server_obeys_the_template(tmp_path: Path) -> None:
    """Also where a request asks for the other choice."""
    gguf = write_tiny_gguf(tmp_path / "it.gguf")
    for thinking in ("on", "off"):
        baked = bake(THINKS, thinking, **TOKENS)
        wanted = render_jinja(THINKS, QUESTION, thinking=thinking == "on", **TOKENS)
        for told in ({}, {"enable_thinking": True}, {"enable_thinking": False}):
            (found,) = apply_template(gguf, [QUESTION], template=baked, chat_template_kwargs=told)
            assert found.prompt == wanted


def test_a_template_without_thoughts_is_described_by_turns() -> None:
    """So that it gets a TEMPLATE for Ollama; undecided, only the Jinja template can write its prompts."""
    chat = derive(bake(THINKS, "off", **TOKENS), **TOKENS)
    assert isinstance(chat, ChatFormat)
    assert chat.generation == "<|im_start|>assistant\n<think>\n\n</think>\n\n"


def test_both_names_of_the_switch() -> None:
    """As DeepSeek V3.1 does."""
    both = THINKS.replace(
        "enable_thinking is defined and enable_thinking is false", "not (enable_thinking or thinking)"
    )
    for thinking in ("on", "off"):
        baked = bake(both, thinking, **TOKENS)
        assert baked.count("{% set ") == both.count("{% set ") + 2
    (note,) = thinking_notes(both, **TOKENS)
    assert "(enable_thinking and thinking)" in note


def test_a_template_without_the_choice() -> None:
    with pytest.raises(ChatFormatError, match="--thinking off: the chat template has no choice of thinking") as caught:
        bake(TURNS, "off", **TOKENS)
    assert "--template FILE" in caught.value.hint


def test_a_choice_that_is_made_elsewhere_too() -> None:
    """A line that sets the variable again: the proof fails, and nothing is written."""
    twice = THINKS.replace("{% for", "{% if enable_thinking is defined %}{% set x = 1 %}{% endif %}{% for", 1)
    hostile = "{% if enable_thinking is sameas true and x is not defined %}{{ 1 / 0 }}{% endif %}" + twice
    assert bake(twice, "off", **TOKENS)
    with pytest.raises(ChatFormatError):
        bake(hostile, "on", **TOKENS)


def test_further_templates() -> None:
    named = (("tool_use", THINKS), ("plain", TURNS), ("broken", "{{"))
    assert bake_named(named, None, **TOKENS) == named
    assert bake_named(named, "off", **TOKENS) == (("tool_use", bake(THINKS, "off", **TOKENS)), *named[1:])


def test_a_build(checkpoint: Maker, tmp_path: Path) -> None:
    model = Path(shutil.copytree(checkpoint("qwen2", layers=1), tmp_path / "model"))
    edit_json(model / "tokenizer_config.json", chat_template=THINKS)
    with prepare(Recipe(model)) as prepared:
        (note,) = (note for note in prepared.plan.notes if "lets the model think" in note)
        assert note.endswith("if it was trained without thoughts, pass --thinking off")
    result = build(Recipe(model, (), ("q8_0",), tmp_path / "out", "it", thinking="off"))
    assert not [note for note in result.plan.notes if "lets the model think" in note]
    (written,) = (entry.value for entry in result.plan.metadata if entry.key == "tokenizer.chat_template")
    assert written == "{% set enable_thinking = false %}\n" + THINKS
    manifest = json.loads((result.folder / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["recipe"]["thinking"] == "off"
    assert "</think>" in (result.folder / "Modelfile").read_text(encoding="utf-8")


def test_another_word() -> None:
    with pytest.raises(QuantkitError, match="thinking 'maybe' is unknown"):
        Recipe("m", thinking="maybe")
