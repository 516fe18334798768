"""Answers that are held to a JSON schema, by a model that says anything."""

from __future__ import annotations

import json
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_serve_requests import LOOK, THINKS, USES_TOOLS, read
from tiny_gguf import Tiny, write_tiny_gguf

from quantkit.chat_template.answer_format import AnswerFormat, Thoughts, Wrapper
from quantkit.chat_template.answer_reader import AnswerReader, Text, Thought
from quantkit.run.held_answer import Held, answer_grammar
from quantkit.run.options import GrammarError
from quantkit.run.session import ChatModel
from quantkit.serve.errors import RequestError
from quantkit.serve.schema_grammar import JSON_OBJECT, schema_grammar
from tests.support.json_schema import is_valid
from tests.support.served import running_server

WORD = {"type": "string", "maxLength": 4}
NUMBER, WHOLE, YES = {"type": "number"}, {"type": "integer"}, {"type": "boolean"}
TREE = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {"name": WORD, "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
            "required": ["name", "next"],
        }
    },
    "$ref": "#/$defs/node",
}


def shape(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required}


SCHEMAS: list[Any] = [
    WORD,
    NUMBER,
    WHOLE,
    YES,
    {"type": "null"},
    {"type": "integer", "minimum": 0},
    {"type": "number", "minimum": 0},
    {"type": ["integer", "null"]},
    {"type": ["boolean", "string"], "maxLength": 3, "minLength": 1},
    {"type": "string", "minLength": 2, "maxLength": 2},
    {"type": "string", "maxLength": 0},
    {"minLength": 1, "maxLength": 9},
    *({"type": "string", "format": name} for name in ("date", "time", "date-time", "uuid")),
    {"const": "你好"},
    {"const": {"a": [1, None, 'quote " and \\ and \n']}},
    {"enum": ["red", "green", 3, None, False]},
    {"enum": ["🙂", "\t", "</s>"], "type": "string", "title": "a title", "description": "ignored"},
    {"anyOf": [YES, {"type": "null"}]},
    {"anyOf": [WORD, shape(["a"], a=WHOLE)]},
    {"allOf": [WHOLE], "default": 3},
    {"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/b"}, {"type": "null"}]}, "b": {"$ref": "#/$defs/c"}, "c": YES},
     "$ref": "#/$defs/a"},
    {"type": "array", "items": YES, "maxItems": 3},
    {"type": "array", "items": YES, "minItems": 2, "maxItems": 2},
    {"type": "array", "items": WHOLE, "minItems": 1, "maxItems": 4},
    {"type": "array", "items": WORD, "maxItems": 0},
    {"type": "array", "maxItems": 2, "items": {"type": "array", "items": YES, "maxItems": 2}},
    {"items": YES, "maxItems": 1},
    shape(["x"]) | {"additionalProperties": NUMBER},
    {"type": "object", "additionalProperties": False},
    shape(["a"], a=YES),
    shape([], a=YES),
    shape(["a", "b"], a=YES, b=WHOLE),
    shape(["b"], a=YES, b=WHOLE),
    shape(["a"], a=YES, b=WHOLE),
    shape([], a=YES, b=WHOLE, c=WORD),
    shape(["b"], a=YES, b=WHOLE, c=WORD),
    shape(["a", "c"], a=YES, b=WHOLE, c=WORD),
    shape(["c"], a=YES, b=WHOLE, c=WORD, d=YES),
    shape(["a", "d"], a=YES, b=WHOLE, c=WORD, d=YES, e=NUMBER),
    {**shape(["a"], a=YES), "additionalProperties": False},
    {"type": "object", "required": ["x"], "additionalProperties": YES},
    {**shape(["a", "x"], a=YES), "additionalProperties": WHOLE},
    shape(["引号\"", "a b"], **{"引号\"": YES, "a b": WORD}),
    shape(["root", "string"], root=YES, string={"const": 1}),
    shape(["in"], **{"in": shape(["deep"], deep={"type": "array", "items": shape(["x"], x=NUMBER), "maxItems": 2})}),
    {"$defs": {"a": YES, "b/c": WHOLE}, **shape(["p"], p={"$ref": "#/$defs/a"})},
    {"definitions": {"a": YES}, "$defs": {"a": {"const": 2}}, "items": {"$ref": "#/definitions/a"}, "maxItems": 3},
    TREE,
    {"properties": {"kind": {"const": "x"}}, "required": ["kind"]},
]  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChatModel]:
    """All tokens are as likely."""
    path = write_tiny_gguf(tmp_path_factory.mktemp("any") / "tiny.gguf", Tiny(sharpness=0.001, context=2048))
    with ChatModel.load(path, threads=1) as loaded:
        yield loaded


def said(model: ChatModel, grammar: str, seed: int, longest: int = 1500, shown: Container[int] = ()) -> str:
    """An answer at random."""
    if "root ::=" not in grammar:
        grammar = f"root ::= answer\n{grammar}"
    pieces = model.stream(
        [{"role": "user", "content": "?"}], max_tokens=longest, temperature=1.0, min_p=0.0, top_p=1.0, top_k=0,
        seed=seed, grammar=grammar, shown=shown,
    )  # fmt: skip
    return "".join(pieces)


@pytest.mark.parametrize("schema", SCHEMAS, ids=map(str, range(len(SCHEMAS))))
def test_every_answer_is_valid(model: ChatModel, schema: Any) -> None:
    grammar = schema_grammar(schema)
    for seed in range(4):
        text = said(model, grammar, seed)
        assert model.last_stats is not None
        assert model.last_stats.stop_reason == "end_of_turn"
        assert is_valid(json.loads(text), schema), text


def test_what_is_optional_is_there_at_times(model: ChatModel) -> None:
    grammar = schema_grammar(shape(["b"], a=YES, b=YES, c=YES))
    found = {"".join(json.loads(said(model, grammar, seed))) for seed in range(24)}
    assert found == {"b", "ab", "bc", "abc"}


@pytest.mark.parametrize("grammar", [JSON_OBJECT, schema_grammar({"type": "object"})])
def test_any_object_begins_as_one(model: ChatModel, grammar: str) -> None:
    assert said(model, grammar, 1, longest=9).startswith("{")


def test_the_validator_finds_what_is_wrong() -> None:
    for value, schema in (("12345", WORD), (-1, {"minimum": 0}), ({}, shape(["a"], a=YES)), (True, WHOLE), ([1], TREE)):
        assert not is_valid(value, schema)
    assert not is_valid({"name": "a", "next": {"name": "b"}}, TREE)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "string", "pattern": "a+"}, "'pattern' is not supported"),
        ({"pattern": "a+"}, "'pattern' is not supported"),
        ({"type": "string", "format": "email"}, "format 'email' is not supported"),
        ({"type": "integer", "minimum": 3}, "minimum 3 is not supported, only 0"),
        ({"type": "integer", "maximum": 3}, "'maximum' is not supported"),
        ({"oneOf": [YES, WORD]}, "'oneOf' is not supported"),
        ({"not": YES}, "'not' is not supported"),
        ({"type": "array", "uniqueItems": True}, "'uniqueItems' is not supported"),
        ({"type": "array", "minItems": 3, "maxItems": 2}, "minItems is more than maxItems"),
        ({"type": "array", "maxItems": 10**9}, "maxItems must be from 0 to 500"),
        ({"type": "text"}, "there is no type 'text'"),
        ({"type": []}, "has no type"),
        ({"type": "string", "minimum": 0}, "'minimum' is not supported"),
        ({"$ref": "https://example.org/x"}, "must be inside of the schema"),
        ({"$ref": "#/$defs/none"}, "there is no #/$defs/none"),
        ({"$ref": "#"}, "only another reference"),
        ({"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, YES]}}, "$ref": "#/$defs/a"}, "only another reference"),
        (
            {
                "$defs": {
                    "a": {"anyOf": [shape(["b"], b={"$ref": "#/$defs/b"}), {"$ref": "#/$defs/b"}]},
                    "b": {"anyOf": [{"$ref": "#/$defs/a"}, YES]},
                },
                "$ref": "#/$defs/a",
            },
            "only another reference",
        ),
        ({"enum": [1.5, float("nan")]}, "cannot be written as JSON"),
        ({"const": [float("inf")]}, "cannot be written as JSON"),
        ({"allOf": [YES, WORD]}, "allOf with several schemas"),
        ({"enum": []}, "enum must be a list"),
        ({"enum": ["a"], "type": "integer"}, "does not have the type"),
        ({"type": "object", "required": ["a"], "additionalProperties": False}, "'a' is required and not allowed"),
        (shape([], a=3), "the schema.a is not a schema"),
        (False, "is not a schema"),
    ],
)
def test_what_a_grammar_cannot_hold_is_refused(schema: Any, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        schema_grammar(schema)
    assert message in str(caught.value)
    assert caught.value.param == "response_format"


def test_schemas_that_are_too_much(model: ChatModel) -> None:
    deep: Any = YES
    for _ in range(60):
        deep = {"type": "array", "items": deep}
    with pytest.raises(RequestError, match="nested too deeply"):
        schema_grammar(deep)
    with pytest.raises(RequestError, match="too large"):
        schema_grammar(shape([], **{f"p{number}": YES for number in range(3000)}))
    for grammar in ("root ::= a\na ::= a | [0-9]", "root ::= " + "(" * 200, "x" * 100_000):
        with pytest.raises(GrammarError):
            said(model, grammar, 1)


@pytest.mark.parametrize(
    ("body", "grammar"),
    [
        ({"response_format": {"type": "text"}}, ""),
        ({"response_format": None}, ""),
        ({"response_format": {"type": "json_object"}}, JSON_OBJECT),
        ({"response_format": {"type": "json_object", "schema": YES}}, schema_grammar(YES)),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": YES, "strict": True}}},
         schema_grammar(YES)),
        ({"json_schema": YES}, schema_grammar(YES)),
    ],
)  # fmt: skip
def test_the_ways_to_ask(body: dict[str, Any], grammar: str) -> None:
    assert read(**body).settings.held == (Held(grammar, thinks=False) if grammar else None)


@pytest.mark.parametrize(
    ("form", "body", "message"),
    [
        (USES_TOOLS, {"tools": [LOOK]}, "together with tools"),
        (AnswerFormat(), {"response_format": {"type": "json_schema"}}, "json_schema is missing"),
        (AnswerFormat(), {"response_format": {"type": "xml"}}, "response_format.type must be 'text'"),
    ],
)
def test_what_does_not_go_together(form: AnswerFormat, body: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError) as caught:
        read(form=form, **{"response_format": {"type": "json_object"}, **body})
    assert message in str(caught.value)
    assert str(caught.value.param).startswith("response_format")


def test_a_model_may_think_before_unless_it_is_told_not_to() -> None:
    asked = {"response_format": {"type": "json_object"}}
    assert read(form=THINKS, **asked).settings.held == Held(JSON_OBJECT)
    assert read(form=AnswerFormat(THINKS.thoughts), **asked, reasoning_effort=None).settings.held == Held(JSON_OBJECT)
    assert read(form=THINKS, **asked, reasoning_effort="none").settings.held == Held(JSON_OBJECT, thinks=False)


@pytest.mark.parametrize("opening", ["", "<think>\n", "<think>\n\n</think>\n\n"])
def test_json_behind_a_thought(model: ChatModel, opening: str) -> None:
    """The thought is free, and the answer obeys however it began: by the prompt, by the model, or not at all."""
    form, schema = AnswerFormat(Thoughts(Wrapper("<think>", "</think>"), "")), shape(["a"], a=WORD)
    thoughts = set[bool]()
    for seed in range(1 if opening == "<think>\n" else 4):
        reader = AnswerReader(form, opening)
        grammar = answer_grammar(Held(schema_grammar(schema)), form, reader)
        parts = [*reader.push(said(model, grammar, seed, shown=model.tokenize("<think></think>"))), *reader.finish()]
        assert model.last_stats is not None
        assert model.last_stats.stop_reason == "end_of_turn"
        assert is_valid(json.loads("".join(part.text for part in parts if isinstance(part, Text))), schema)
        thoughts.add(any(isinstance(part, Thought) for part in parts))
    assert thoughts == {"": {False, True}, "<think>\n": {True}}.get(opening, {False})


def test_the_markers_around_the_text_of_an_answer(model: ChatModel) -> None:
    form = AnswerFormat(Thoughts(Wrapper("<think>", "</think>"), ""), Wrapper("<text>", "</text>"))
    grammar = answer_grammar(Held(schema_grammar(YES), thinks=False), form, AnswerReader(form))
    assert {said(model, grammar, seed).split("e")[-1].strip() in ("", "xt>") for seed in range(6)} == {True}
    assert said(model, grammar, 1).lstrip().startswith("<text>")


def test_openais_client(tmp_path: Path) -> None:
    import openai

    path = write_tiny_gguf(tmp_path / "tiny.gguf", Tiny(sharpness=0.001, context=2048))
    schema = shape(["a", "b"], a=WHOLE, b={"enum": ["x", "你"]})
    asked: Any = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}}
    with running_server(tmp_path / "log.txt", path) as server:
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            answer = client.chat.completions.create(
                model="x", messages=[{"role": "user", "content": "?"}], response_format=asked, seed=1
            )
        assert is_valid(json.loads(answer.choices[0].message.content or ""), schema)
        left = {"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, YES]}}, "$ref": "#/$defs/a"}
        refused = server.chat("?", json_schema=left)
        assert (refused.status, refused.error["param"]) == (400, "response_format")
