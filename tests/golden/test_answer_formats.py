"""How released chat templates let a model answer; and what it says, read as llama.cpp's own parser reads it.

``UPDATE_GOLDENS=1`` writes answer_formats.json anew; read the difference.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from quantkit.chat_template.answer_format import AnswerFormat
from quantkit.chat_template.prober import USER, Prober
from tests.support.answer_prompts import form_of
from tests.support.chat_templates import real_templates
from tests.support.llama_tools import apply_template
from tests.support.said import TOOLS, agrees, calling_answers, opening, plain_answers, read
from tests.support.vocabularies import write_vocabulary
from tests.support.vocabulary_gguf import add_config, read_folder, write_gguf

TABLE = Path(__file__).with_name("answer_formats.json")
FUZZED = Path(__file__).parents[1] / "support" / "fuzz" / "readers" / "answer_forms.json"
"""Some of the formats with everything that they are, for the fuzzer, which has no templates."""
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
# What llama.cpp reads otherwise, and why.
OTHERWISE = {
    "Apriel-1.6-15b-Thinker-fixed": "it counts the words with which the prompt opens the thought as part of it",
    "Cohere2MoE": "it takes calls inside an open thought",
    "Kimi-K3": "it knows this template by name",
    "ibm-granite-granite-3.3-2B-Instruct": "it leaves the marks around the answer in the text",
    "muse-glimmer": "it reads nothing without the header that the prompt ends before",
    "upstage-Solar-Open-100B": "it does not find the thoughts",
    "llama-cpp-rwkv-world": "it loses the white space before the mark, and with it the mark",
}
UNCLOSED = {"google-gemma-4-31B-it", "google-gemma-4-31B-it-interleaved"}
"""Where it cuts an answer at the mark that ends a thought, though none began."""


def names_with(key: str) -> list[str]:
    """The templates that have it, but for those that llama.cpp reads otherwise."""
    table = json.loads(TABLE.read_text(encoding="utf-8"))
    return [name for name, found in table.items() if key in found and name not in OTHERWISE]


def summary(form: AnswerFormat) -> dict[str, Any]:
    thoughts, calls = form.thoughts, form.calls
    found: dict[str, Any] = {
        "thoughts": thoughts and [thoughts.marks.open, thoughts.marks.close, thoughts.field],
        "answer": [form.answer.open, form.answer.close] if form.answer.open else None,
        "switches": form.switches,
        "efforts": form.efforts,
        "calls": calls and f"{calls.kind.name} {calls.section.open} {calls.call.open} {calls.call.close}".strip(),
        "no_calls": form.no_calls,
    }
    return {key: list(value) if isinstance(value, tuple) else value for key, value in found.items() if value}


def test_every_template() -> None:
    found = {name: summary(form_of(name)) for name in sorted(real_templates())}
    if os.environ.get("UPDATE_GOLDENS"):
        TABLE.write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    assert found == json.loads(TABLE.read_text(encoding="utf-8"))


def test_the_formats_that_are_fuzzed() -> None:
    known = json.loads(FUZZED.read_text(encoding="utf-8"))
    found = {name: json.loads(json.dumps(asdict(form_of(name)))) for name in known}
    if os.environ.get("UPDATE_GOLDENS"):
        FUZZED.write_text(json.dumps(found, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
    assert found == known


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_vocabulary(tmp_path_factory.mktemp("vocabulary"), "llama-spm", small=True)
    return write_gguf(read_folder(add_config(folder, "llama-spm")), folder / "vocabulary.gguf", name="chat")


@pytest.mark.parametrize("name", names_with("thoughts"))
def test_thoughts_as_llama_cpp_reads_them(name: str, gguf: Path) -> None:
    prober, form = Prober(real_templates()[name], **TOKENS), form_of(name)
    told = {"enable_thinking": True}  # as llama.cpp says
    answers = plain_answers(form)[: -1 if name in UNCLOSED else None]
    (theirs,) = apply_template(gguf, [[USER]], real_templates()[name], answers=answers)
    assert sum("error" not in message for message in theirs.messages) >= 1
    opened = opening(prober, **told)
    for answer, message in zip(answers, theirs.messages, strict=True):
        for by in (None, 1, 3):
            assert agrees(read(form, opened, answer, tools=False, by=by), message), (answer, message)


@pytest.mark.parametrize("name", names_with("calls"))
def test_calls_as_llama_cpp_reads_them(name: str, gguf: Path) -> None:
    prober, form = Prober(real_templates()[name], **TOKENS), form_of(name)
    told = {"enable_thinking": True, "tools": TOOLS}
    opened = opening(prober, **told)
    past = list(calling_answers(prober, form))
    # A prompt may open a thought that a past answer does not have.
    answers = [body for _, body, _ in past] + plain_answers(form)[:3]
    (theirs,) = apply_template(gguf, [[USER]], real_templates()[name], answers=answers, tools=TOOLS)
    for answer, message in zip(answers, theirs.messages, strict=True):
        for by in (None, 1, 3):
            assert agrees(read(form, opened, answer, tools=True, by=by), message), (answer, message)
    for start, body, calls in past:
        assert read(form, start, body, tools=True).calls == tuple(calls)


@pytest.mark.parametrize("name", ["Qwen-Qwen3-0.6B", "GLM-4.6", "mistralai-Mistral-Nemo-Instruct-2407"])
def test_what_is_no_call_stays_text(name: str) -> None:
    """An unknown tool, broken JSON, a call that was cut off, and any call where no tools were offered."""
    prober, form = Prober(real_templates()[name], **TOKENS), form_of(name)
    start, body, _ = list(calling_answers(prober, form))[1]
    wrong = (body.replace("get_weather", "rm"), body.replace("get_weather", "get_weathers"), body[:-20])
    for answer in wrong:
        found = read(form, start, answer, tools=True, by=1)
        assert found.calls == ()
        assert found.text.endswith(answer.strip()[-20:])
    assert read(form, start, body, tools=False).calls == ()
    assert form.calls is not None
    alone = replace(form, calls=replace(form.calls, several=False))
    assert len(read(alone, start, body, tools=True).calls) == 1


def test_messages_of_gpt_oss(gguf: Path) -> None:
    """The model writes the parts of a header in another order than its template, and text before a call."""
    name = "openai-gpt-oss-120b"
    prober, form = Prober(real_templates()[name], **TOKENS), form_of(name)
    thought, call = "<|channel|>analysis<|message|>Weather.<|end|><|start|>assistant", '{"city": "Paris", "days": 2}'
    answers = [
        f"{thought}<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{call}",
        f"{thought} to=functions.get_weather<|channel|>commentary json<|message|>{call}",
        f"<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{call}",
        f"{thought}<|channel|>final<|message|>Sunny.",
        "<|channel|>final<|message|>Use to=functions.get_weather?",
    ]
    (theirs,) = apply_template(gguf, [[USER]], real_templates()[name], answers=answers, tools=TOOLS)
    opened = opening(prober, tools=TOOLS)
    for answer, message in zip(answers, theirs.messages, strict=True):
        assert "error" not in message
        for by in (None, 1, 3):
            assert agrees(read(form, opened, answer, tools=True, by=by), message), (answer, message)
    preamble = "<|channel|>commentary<|message|>Let me look.<|end|><|start|>assistant"
    found = read(form, opened, preamble + answers[2], tools=True, by=1)
    assert (found.text, found.calls) == ("Let me look.", (("get_weather", json.loads(call)),))
    unknown = answers[2].replace("get_weather", "rm")
    assert read(form, opened, unknown, tools=True).calls == ()
    assert "rm" in read(form, opened, unknown, tools=True).text
