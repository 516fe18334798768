"""Calls that a grammar forces, in the format of every released template whose calls can be read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from test_answer_formats import TABLE, TOKENS

from quantkit.chat_template.answer_format import AnswerFormat, CallKind
from quantkit.chat_template.answer_reader import AnswerReader, Text
from quantkit.chat_template.call_reader import Call
from quantkit.chat_template.prober import Prober
from quantkit.ggml.llama import llama_cpp
from quantkit.run.grammar import Grammar
from quantkit.run.held_answer import Held, answer_grammar
from quantkit.run.session import ChatModel
from quantkit.serve.call_grammar import forced_calls, one_call_at_most
from quantkit.serve.errors import RequestError
from tests.support.answer_prompts import form_of
from tests.support.chat_templates import real_templates
from tests.support.json_schema import is_valid
from tests.support.said import TOOLS, calling_answers
from tests.unit.tiny_gguf import Tiny, write_tiny_gguf

CALLING = [name for name, found in json.loads(TABLE.read_text(encoding="utf-8")).items() if "calls" in found]
KINDS = {
    "Apertus-8B-Instruct", "Cohere2MoE", "GLM-4.6", "MiniMax-M2", "Mistral-Small-3.2-24B-Instruct-2506", "Qwen3-Coder",
    "Qwen-Qwen3-0.6B", "google-gemma-4-31B-it", "meta-llama-Llama-3.1-8B-Instruct", "openai-gpt-oss-120b",
    "mistralai-Mistral-Nemo-Instruct-2407", "LFM2.5-8B-A1B", "deepseek-ai-DeepSeek-V3.2", "moonshotai-Kimi-K2",
    "openbmb-MiniCPM5-1B", "upstage-Solar-Open-100B",
}  # fmt: skip
"""One for each way to write calls."""
WORD = {"type": "string", "maxLength": 4}
DEEP = {
    "type": "object",
    "properties": {"yes": {"type": "boolean"}, "words": {"type": "array", "items": WORD, "maxItems": 2}},
    "required": ["words"],
}
PARAMETERS = {
    "type": "object",
    "properties": {
        "word": {**WORD, "minLength": 1},
        "kind": {"enum": ["a b", "c"]},
        "count": {"type": "integer", "description": "so many"},
        "deep": DEEP,
        "day": {"type": "string", "format": "date"},
        "maybe": {"anyOf": [{"type": "null"}, WORD]},
        "never": {"type": "null"},
    },
    "required": ["kind", "deep"],
}
FUNCTIONS = [
    {"name": "look", "parameters": PARAMETERS},
    {"name": "look_up", "parameters": {"type": "object", "properties": {}, "additionalProperties": False}},
    {"name": "find"},
]
BOUNDED = FUNCTIONS[:2]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChatModel]:
    """All tokens are as likely."""
    path = write_tiny_gguf(tmp_path_factory.mktemp("any") / "tiny.gguf", Tiny(sharpness=0.001, context=2048))
    with ChatModel.load(path, threads=1) as loaded:
        yield loaded


def said(model: ChatModel, rules: str, seed: int) -> str:
    pieces = model.stream(
        [{"role": "user", "content": "?"}], max_tokens=1500, temperature=1.0, min_p=0.0, top_p=1.0, top_k=0, seed=seed,
        grammar=f"root ::= answer\ngap ::= \"\"\n{rules}",
    )  # fmt: skip
    # Bytes that are no character count as one to the grammar, and are one mark each in the text.
    return re.sub("\ufffd+", "\ufffd", "".join(pieces))


def read(form: AnswerFormat, answer: str, functions: Sequence[Any]) -> tuple[list[Call], str]:
    tools = {function["name"]: function.get("parameters") or {} for function in functions}
    reader = AnswerReader(replace(form, thoughts=None), "", tools)
    parts = [*reader.push(answer), *reader.finish()]
    return [part for part in parts if isinstance(part, Call)], "".join(p.text for p in parts if isinstance(p, Text))


@pytest.mark.parametrize("name", sorted(KINDS))
def test_every_answer_is_calls_that_obey(name: str, model: ChatModel) -> None:
    form = form_of(name)
    assert form.calls is not None
    rules = forced_calls(form.calls, BOUNDED, several=True)
    for seed in range(3):
        calls, text = read(form, said(model, rules, seed), BOUNDED)
        assert model.last_stats is not None
        assert model.last_stats.stop_reason == "end_of_turn"
        assert len(calls) == 1 or (calls and form.calls.several)
        assert not text.strip()
        for call in calls:
            schema = PARAMETERS if call.name == "look" else {"const": {}}
            assert is_valid(json.loads(call.arguments), schema), call


@cache
def alone(kind: CallKind) -> str:
    return next(name for name in CALLING if name in KINDS and (found := form_of(name).calls) and found.kind is kind)


@pytest.mark.parametrize("kind", list(CallKind))
def test_one_call_of_one_tool(kind: CallKind, model: ChatModel) -> None:
    form = form_of(alone(kind))
    assert form.calls is not None
    for seed in range(2):
        calls, _ = read(form, said(model, forced_calls(form.calls, BOUNDED[:1], several=False), seed), BOUNDED)
        assert [call.name for call in calls] == ["look"]


def accepts(model: ChatModel, grammar: str, text: str) -> bool:
    """Whether llama.cpp lets a model say this, and end its answer there."""
    held = Grammar(model.engine.vocabulary, grammar)
    try:
        eos = model.token_ids["<|eot_id|>"]
        for token in model.tokenize(text):
            if not held.allows(token):
                return False
            llama_cpp.llama_sampler_accept(held._sampler, token)
        return held.allows(eos)
    finally:
        held.close()


@pytest.mark.parametrize("name", CALLING)
def test_a_model_may_call_as_its_template_writes(name: str, model: ChatModel) -> None:
    prober, form = Prober(real_templates()[name], **TOKENS), form_of(name)
    assert form.calls is not None
    functions = [tool["function"] for tool in TOOLS]
    forced = Held(forced_calls(form.calls, functions, several=True), is_text=False)
    limited = Held(one_call_at_most(form, functions), is_text=False) if form.calls.several else None
    close = form.thoughts.marks.close if form.thoughts else ""
    for opening, body, calls in calling_answers(prober, form):
        if close and form.thoughts:  # a prompt opens a thought that a past answer does not have, or has ended already
            ended = not form.thoughts.marks.open and close not in body
            opening += form.thoughts.marks.open if body.lstrip().startswith(close) else close if ended else ""
        reader = AnswerReader(form, opening, {function["name"]: function["parameters"] for function in functions})
        spoken = "Let me look." in body
        assert accepts(model, answer_grammar(forced, form, reader), body) is not spoken
        assert not accepts(model, answer_grammar(forced, form, reader), body.replace("city", "town"))
        assert not accepts(model, answer_grammar(forced, form, reader), "Hello.")
        if limited is not None:
            assert accepts(model, answer_grammar(limited, form, reader), body) is (len(calls) == 1)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "string"}, "look: parameters must be an object"),
        ({"properties": {"a": {"type": "string", "pattern": "x"}}}, "look.a: 'pattern' is not supported here"),
        ({"properties": {"a": {"type": "integer", "maximum": 3}}}, "look.a: 'maximum' is not supported here"),
        ({"type": "object", "minProperties": 1}, "look: 'minProperties' is not supported here"),
    ],
)
@pytest.mark.parametrize("kind", list(CallKind))
def test_what_cannot_be_held_is_refused_by_name(kind: CallKind, schema: Any, message: str) -> None:
    form = form_of(alone(kind))
    assert form.calls is not None
    with pytest.raises(RequestError) as caught:
        forced_calls(form.calls, [{"name": "look", "parameters": schema}], several=True)
    assert message in str(caught.value)
    assert caught.value.param == "tools"
