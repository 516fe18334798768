"""The choice of thinking can be written into every released chat template that leaves it to the program."""

from __future__ import annotations

from quantkit.chat_template.thinking import bake_thinking, find_thinking
from quantkit.errors import ChatFormatError
from tests.support.chat_templates import real_templates

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


def test_every_choice_is_proven() -> None:
    found = {}
    for name, template in real_templates().items():
        try:
            thinking = find_thinking(template, **TOKENS)
        except ChatFormatError:
            continue  # it refuses plain conversations
        if thinking.switches:
            found[name] = thinking.on_as_is
            for choice in (True, False):
                bake_thinking(template, thinking=choice, **TOKENS)  # raises if the proof fails
    assert len(found) >= 20
    assert {name: found[name] for name in ("Qwen-Qwen3-0.6B", "HuggingFaceTB-SmolLM3-3B", "Qwen3.5-4B")} == {
        "Qwen-Qwen3-0.6B": True,
        "HuggingFaceTB-SmolLM3-3B": True,
        "Qwen3.5-4B": True,
    }
