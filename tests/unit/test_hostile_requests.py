"""Requests whose schemas are none: every keyword with every kind of value is refused by name, in every place."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from quantkit.run.gbnf import literal
from quantkit.run.options import GrammarError
from quantkit.serve.call_grammar import forced_calls
from quantkit.serve.errors import RequestError
from quantkit.serve.refusals import refused
from quantkit.serve.request import read_request
from quantkit.serve.schema_grammar import schema_grammar
from tests.support.fuzz.readers.answers import FORMS
from tests.unit.test_serve_requests import LOOK, PACKAGE, USES_TOOLS

KEYWORDS = (
    *("$ref", "anyOf", "oneOf", "allOf", "const", "enum", "type", "properties", "required", "additionalProperties"),
    *("items", "minItems", "maxItems", "minLength", "maxLength", "format", "minimum"),
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 0.5, 10**30, "", "a", "\0", "#/", [], {}, [[]], [{}], [None], [3], ["a", "a"], [["a"]]),
    *({"a": None}, {"a": []}, {"\0": {}}, {"type": []}, float("nan"), [float("inf")]),
)
CALLS = [
    form.calls for form in map(FORMS.get, ("Qwen-Qwen3-0.6B", "GLM-4.6", "LFM2.5-8B-A1B", "google-gemma-4-31B-it"))
    if form is not None and form.calls is not None
]  # fmt: skip


def ask(**body: Any) -> None:
    data = json.dumps({"messages": [{"role": "user", "content": "hi"}], **body}).encode()
    read_request(data, system=None, settings=PACKAGE, note=[].append, form=USES_TOOLS)


def grammars(schema: Any) -> Iterator[str]:
    """Those that are made of a schema, as that of an answer and as that of a tool's parameters."""
    functions = [{"name": "look", "parameters": schema}]
    makes: list[Callable[[], str]] = [partial(schema_grammar, schema)]
    makes += [partial(forced_calls, calls, functions, several=True) for calls in CALLS]
    for make in makes:
        with suppress(RequestError):
            yield make()


@pytest.mark.parametrize("keyword", KEYWORDS)
def test_no_schema_is_more_than_a_bad_request(keyword: str) -> None:
    for value in VALUES:
        for schema in ({keyword: value}, {"properties": {"x": {"type": "string", keyword: value}}}):
            for grammar in grammars(schema):
                assert not any(text in grammar for text in ("\0", "NaN", "Infinity"))


def test_a_zero_byte_never_ends_a_grammar() -> None:
    """llama.cpp would read what is before it."""
    found = list(grammars({"type": "object", "properties": {"a": {"enum": ["x", "y\0z"]}}, "required": ["a"]}))
    assert len(found) == 2
    assert all(r"y\\u0000z" in grammar for grammar in found)
    with pytest.raises(GrammarError, match="zero byte"):
        literal("a\0b")


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "user", "content": "x", "y" * 100_000: 1}]},
        {"response_format": {"type": "text", "y" * 100_000: 1}},
        {"lora": [{"y" * 100_000: 1}]},
        {"tools": [LOOK], "tool_choice": {"type": "function", "function": {"name": "y" * 100_000}}},
        {"logit_bias": {"y" * 100_000: 1}},
        {"chat_template_kwargs": {"y" * 100_000: 1}},
    ],
    ids=lambda body: next(iter(body)),
)
def test_a_refusal_does_not_repeat_a_long_request(body: dict[str, Any]) -> None:
    with pytest.raises(RequestError) as caught:
        ask(**body)
    assert len(refused(caught.value).body) < 1000
