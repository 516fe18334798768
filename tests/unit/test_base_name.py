"""The full-precision base of an adapter, by the name of the quantized one it was trained on."""

from __future__ import annotations

from pathlib import Path

import pytest

from quantkit.hub.base_name import build_hint, full_precision_name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("unsloth/llama-3-8b-bnb-4bit", "unsloth/llama-3-8b"),
        ("unsloth/Llama-3.2-1B-Instruct-unsloth-bnb-4bit", "unsloth/Llama-3.2-1B-Instruct"),
        ("Qwen/Qwen2-7B-Instruct-GPTQ-Int4", "Qwen/Qwen2-7B-Instruct"),
        ("Qwen/Qwen2-7B-Instruct-AWQ", "Qwen/Qwen2-7B-Instruct"),
        ("Qwen/Qwen-7B-Chat-Int4", "Qwen/Qwen-7B-Chat"),
        ("TheBloke/Llama-2-7B-GPTQ", "TheBloke/Llama-2-7B"),
        ("models/base-4bit", "models/base"),
        ("meta-llama/Meta-Llama-3-8B", None),
        ("org/awq-study", None),
        ("-bnb-4bit", None),
    ],
)
def test_the_ending_is_taken_off(name: str, expected: str | None) -> None:
    assert full_precision_name(name) == expected


@pytest.mark.parametrize(
    ("named", "base"),
    [
        ("unsloth/llama-3-8b-bnb-4bit", "unsloth/llama-3-8b"),
        ("Qwen/Qwen2-7B", "Qwen/Qwen2-7B"),
        ("/home/someone/else", "BASE_MODEL"),
        ("; rm -rf x", "BASE_MODEL"),
        (None, "BASE_MODEL"),
        (7, "BASE_MODEL"),
    ],
)
def test_the_hint_is_a_command(named: object, base: str) -> None:
    config = {"base_model_name_or_path": named}
    assert build_hint(Path("my adapter"), config) == f"quantkit build {base} --adapter 'my adapter'"
