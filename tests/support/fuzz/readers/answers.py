"""What a model may say: it is divided into thoughts, text and calls in the same way, however it arrives."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from quantkit.chat_template.answer_format import AnswerFormat, read_answer_format
from quantkit.chat_template.answer_reader import AnswerReader, Part
from quantkit.chat_template.call_reader import Call
from tests.support.fuzz.reader import Reader
from tests.support.fuzz.worded import bytes_of, text_of

_TABLE = Path(__file__).with_name("answer_forms.json")
FORMS: Mapping[str, AnswerFormat] = {
    name: read_answer_format(values) for name, values in json.loads(_TABLE.read_text(encoding="utf-8")).items()
}
"""How released templates let a model answer, by template; a golden test holds them to these."""
TOOLS: Mapping[str, Mapping[str, Any]] = {
    "look": {"type": "object", "properties": {"at": {"type": "string"}, "n": {"type": "integer"}}},
    "look_up": {"properties": {"n": {"anyOf": [{"type": "number"}, {"type": "null"}]}, "deep": {"type": "object"}}},
    "find": {},
}
_WORDS = (
    *("look", "look_up", "find", "at", "n", "deep", "name", "arguments", "parameters", "id", "tool_name", "user"),
    *("\\ud800", "\\u00e9", "NaN", "Infinity", "1e999", "0xff", "1j", "...", "b'x'", "True", "None", "null", "1_0"),
    *('{"', '":', '"}', "}}", "[{", "}]", '\\"', "='", "', ", ")]", "二", "🦙", "\u2028", "\x85", "é", "\ud7ff"),
)
_NAMES = tuple(FORMS)
_OPENINGS = ("", "<think>\n", "</think>", "<|channel|>analysis<|message|>")


def _words(form: AnswerFormat) -> tuple[str, ...]:
    marks = form.markers
    return (*marks, *(mark[: len(mark) // 2] for mark in marks), *_WORDS)[:128]


def read(data: bytes) -> None:
    """Three bytes choose the format, the opening and the division; the rest is what is said."""
    if len(data) < 3:
        return
    form, opening, by = FORMS[_NAMES[data[0] % len(_NAMES)]], _OPENINGS[data[1] % len(_OPENINGS)], data[2]
    said = text_of(data[3:], _words(form))
    tools = TOOLS if by % 8 else {}
    whole = _merged(_parts(form, opening, tools, [said]))
    for division in (_cut(said, 1 + by // 8 % 5), _cut(said, 1)):
        found = _merged(_parts(form, opening, tools, division))
        assert found == whole, f"{division} gives {found}, and at once {whole}"
    for part in whole:
        if isinstance(part, Call):
            assert part.name in tools
            part.arguments.encode()
            part.id.encode()
            assert isinstance(json.loads(part.arguments, parse_constant=_not_json), dict)


def _parts(form: AnswerFormat, opening: str, tools: Mapping[str, Any], pieces: Iterable[str]) -> list[Part]:
    reader, parts = AnswerReader(form, opening, tools), list[Part]()
    for piece in pieces:
        parts += reader.push(piece)
    return parts + reader.finish()


def _cut(text: str, by: int) -> list[str]:
    return [text[at : at + by] for at in range(0, len(text), by)]


def _merged(parts: Iterable[Part]) -> list[Part]:
    """Pieces of one kind that follow each other as one."""
    found: list[Part] = []
    for part in parts:
        last = found[-1] if found else None
        if isinstance(part, Call):
            found.append(part)
        elif last is not None and not isinstance(last, Call) and type(last) is type(part):
            found[-1] = type(part)(last.text + part.text)
        elif part.text:
            found.append(part)
    return found


def _not_json(name: str) -> object:
    raise AssertionError(f"{name} is no JSON")


_SAID = {
    "Qwen-Qwen3-0.6B": '<think>x</think>\n\na <tool_call>\n{"name": "look", "arguments": {"at": "é"}}\n</tool_call>',
    "Cohere2MoE": '<|START_ACTION|>[{"tool_call_id": "0", "tool_name": "look", "parameters": {"n": 1}}]<|END_ACTION|>',
    "GLM-4.6": "<tool_call>look_up\n<arg_key>n</arg_key>\n<arg_value>1</arg_value>\n</tool_call>",
    "MiniMax-M2": '<minimax:tool_call>\n<invoke name="look">\n<parameter name="n">1</parameter>\n</invoke>\n'
    "</minimax:tool_call>",
    "Mistral-Small-3.2-24B-Instruct-2506": '[TOOL_CALLS]look[CALL_ID]abc[ARGS]{"at": "x"}',
    "Qwen3-Coder": "<tool_call>\n<function=look_up>\n<parameter=deep>\n{}\n</parameter>\n</function>\n</tool_call>",
    "google-gemma-4-31B-it": '<|tool_call>call:look{at:<|"|>x<|"|>,n:1,deep:[True,None]}<tool_call|>',
    "meta-llama-Llama-3.1-8B-Instruct": '{"name": "look", "parameters": {"at": "x"}}',
    "openai-gpt-oss-120b": "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>commentary "
    'to=functions.look <|constrain|>json<|message|>{"at": 1}<|call|>',
    "mistralai-Mistral-Nemo-Instruct-2407": '[TOOL_CALLS][{"name": "find", "arguments": {}, "id": "abcdefghi"}]',
    "LFM2.5-8B-A1B": "<|tool_call_start|>[look(at='x', n=1), find()]<|tool_call_end|>",
    "deepseek-ai-DeepSeek-V3.2": '<｜DSML｜function_calls>\n<｜DSML｜invoke name="look_up">\n'
    '<｜DSML｜parameter name="n" string="false">1</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜function_calls>',
    "moonshotai-Kimi-K2": "<|tool_calls_section_begin|><|tool_call_begin|>functions.look:0"
    '<|tool_call_argument_begin|>{"at": "x"}<|tool_call_end|><|tool_calls_section_end|>',
    "openbmb-MiniCPM5-1B": '<function name="look"><param name="at"><![CDATA[a]]></param></function>',
    "muse-glimmer": "to=self<|message|>hm<|eom|><|start|>assistant to=user<|message|>hi",
    "ibm-granite-granite-3.3-2B-Instruct": "<think>a</think><response>b</response>",
    "Apriel-1.6-15b-Thinker-fixed": 'hm[BEGIN FINAL RESPONSE]a<tool_calls>[{"name": "find", "arguments": {}}]',
}


def _seed(name: str, said: str) -> bytes:
    return bytes([_NAMES.index(name), 0, 17]) + bytes_of(said, _words(FORMS[name]))


READER = Reader("answers", lambda: [_seed(*one) for one in _SAID.items()], read)
