"""JSON schemas of requests: what becomes a grammar of one is a grammar to llama.cpp, too."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from zlib import crc32

from pydantic_core import from_json

from quantkit.chat_template.answer_format import AnswerFormat, CallFormat
from quantkit.chat_template.answer_reader import AnswerReader
from quantkit.errors import QuantkitError
from quantkit.run.held_answer import Held, answer_grammar
from quantkit.serve.call_grammar import forced_calls, one_call_at_most
from quantkit.serve.schema_grammar import schema_grammar
from tests.support.fuzz.llama_grammar import parse, prepare
from tests.support.fuzz.mutate_json import JsonMutator
from tests.support.fuzz.reader import Reader
from tests.support.fuzz.readers.answers import FORMS
from tests.support.fuzz.readers.requests import LOOK, WORDS

_PLAIN = AnswerFormat()
_CALLING = [form for form in FORMS.values() if form.calls is not None]
_SEEDS: Sequence[Any] = (
    LOOK,
    {"type": "string", "minLength": 1, "maxLength": 9},
    {"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/b"}, {"type": "null"}]}, "b": LOOK}, "$ref": "#/$defs/a"},
    {"$ref": "#/$defs/n", "$defs": {"n": {"properties": {"next": {"anyOf": [{"$ref": "#/$defs/n"}, True]}}}}},
    {
        "type": ["array", "null", "number"],
        "items": {"allOf": [{"enum": ["a\n", 'q"', 1.5, {"k": [1]}]}]},
        "minItems": 2,
    },
    {"type": "object", "additionalProperties": {"type": "number", "minimum": 0}, "required": ["b", "a"]},
    {"properties": {"a": {"const": "é"}, "b": {"type": "string", "format": "date-time"}}, "required": ["b"]},
)


def _read(data: bytes) -> None:
    try:
        schema = from_json(data)  # as pydantic reads requests
    except ValueError:
        return
    refusals: list[QuantkitError] = []
    made = 0
    for form, make in _grammars(schema, crc32(data)):
        try:
            whole = answer_grammar(Held(make()), form, AnswerReader(form))
        except QuantkitError as error:
            refusals.append(error)
        else:
            made += 1
            assert parse(whole), f"llama.cpp refuses the grammar {whole[:2000]!r}"
    if not made:
        raise refusals[0]


def _grammars(schema: Any, choice: int) -> Iterator[tuple[AnswerFormat, Callable[[], str]]]:
    """That of an answer, and those of calls in one of the formats, in which tools with a name of such arguments are."""
    yield _PLAIN, lambda: schema_grammar(schema)
    form = _CALLING[choice % len(_CALLING)]
    if isinstance(schema, dict):
        functions = [{"name": "look", "parameters": schema}, {"name": "look_up", "parameters": {}}]
        yield form, lambda: forced_calls(_calls(form), functions, several=True)
        yield form, lambda: one_call_at_most(form, functions)


def _calls(form: AnswerFormat) -> CallFormat:
    assert form.calls is not None
    return form.calls


def _seeds() -> Sequence[bytes]:
    prepare()
    return [json.dumps(seed).encode() for seed in _SEEDS]


READER = Reader("schemas", _seeds, _read, JsonMutator(WORDS), memory=1 << 30)
