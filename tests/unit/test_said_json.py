"""Calls whose arguments no client could be sent: in every format they are text, not calls, and nothing fails."""

from __future__ import annotations

import json
import re

import pytest

from quantkit.chat_template.answer_reader import AnswerReader, Part, Text
from quantkit.chat_template.call_reader import Call
from quantkit.chat_template.said_json import read_value, written
from tests.support.fuzz.readers.answers import FORMS, TOOLS

# The value of an argument, in each of the ways in which formats write one; %s is the value.
CALLS = {
    "Qwen-Qwen3-0.6B": '<tool_call>\n{"name": "look_up", "arguments": {"deep": %s}}\n</tool_call>',
    "mistralai-Mistral-Nemo-Instruct-2407": '[TOOL_CALLS][{"name": "look_up", "arguments": {"deep": %s}, "id": "a"}]',
    "Mistral-Small-3.2-24B-Instruct-2506": '[TOOL_CALLS]look_up[CALL_ID]abc[ARGS]{"deep": %s}',
    "openai-gpt-oss-120b": '<|channel|>commentary to=functions.look_up <|constrain|>json<|message|>{"deep": %s}',
    "google-gemma-4-31B-it": "<|tool_call>call:look_up{deep:%s}<tool_call|>",
    "GLM-4.6": "<tool_call>look_up\n<arg_key>deep</arg_key>\n<arg_value>%s</arg_value>\n</tool_call>",
    "LFM2.5-8B-A1B": "<|tool_call_start|>[look_up(deep=%s)]<|tool_call_end|>",
}
VALUES = (
    *("NaN", "-Infinity", "1e999", "[NaN]", '"\\ud800"', '["\\udfff"]', "'\\ud800'", "...", "1j", "b'x'", "{1, 2}"),
    *("0x" + "f" * 5000, "9" * 5000, "[" * 5000, "(" * 5000, "{" * 5000, "-" * 5000 + "1", "1e9e9", "f''", "\0"),
)


def said(name: str, text: str) -> list[Part]:
    reader = AnswerReader(FORMS[name], tools=TOOLS)
    return [*reader.push(text), *reader.finish()]


@pytest.mark.parametrize("name", CALLS)
def test_what_cannot_be_sent_is_no_call(name: str) -> None:
    (sound,) = (part for part in said(name, CALLS[name] % "[1, null]") if isinstance(part, Call))
    assert (sound.name, json.loads(sound.arguments)) == ("look_up", {"deep": [1, None]})
    for value in VALUES:
        parts = said(name, CALLS[name] % value)
        calls = [part for part in parts if isinstance(part, Call)]
        for call in calls:  # where what is no value is a text
            call.arguments.encode()
            json.loads(call.arguments, parse_constant=pytest.fail)
        assert calls or value in "".join(part.text for part in parts if isinstance(part, Text))


def test_an_id_that_cannot_be_sent_is_left_out() -> None:
    text = '[TOOL_CALLS][{"name": "find", "arguments": {}, "id": "\\ud800"}]'
    assert said("mistralai-Mistral-Nemo-Instruct-2407", text) == [Call("find", "{}")]


def test_two_escapes_that_are_one_character() -> None:
    text = r"<|tool_call_start|>[find(a='\ud83e\udd99')]<|tool_call_end|>"
    assert said("LFM2.5-8B-A1B", text) == [Call("find", '{"a": "🦙"}')]


def test_values() -> None:
    assert [read_value(text) for text in ("1", "true", "True", "None", "null", "'a'", "[1, 'a']", "1_000")] == [
        1, True, True, None, None, "a", [1, "a"], 1000
    ]  # fmt: skip
    for text in VALUES:
        with pytest.raises(ValueError, match=re.escape(text[:50])):
            read_value(text)
    assert [written(value) for value in ({"a": "é"}, float("nan"), "\ud800", {1, 2})] == [
        '{"a": "é"}',
        None,
        None,
        None,
    ]


@pytest.mark.parametrize("name", FORMS)
def test_white_space_before_an_answer_in_any_pieces(name: str) -> None:
    for text in (" \n \n\u2028hi", "\n\n", "\n <", "\n\n{", "\n\n<think>\n\na"):
        found = []
        for by in (1, 2, 100):
            reader = AnswerReader(FORMS[name], tools=TOOLS)
            parts = [part for at in range(0, len(text), by) for part in reader.push(text[at : at + by])]
            found.append("".join(getattr(part, "text", "") for part in [*parts, *reader.finish()]))
        assert found[0] == found[1] == found[2]
