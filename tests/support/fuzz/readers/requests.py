"""Bodies of requests to the server: each endpoint reads them, or refuses them with a status below 500."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from types import SimpleNamespace
from typing import Any, cast

from starlette.responses import Response

from quantkit.chat_template.answer_format import AnswerFormat
from quantkit.errors import QuantkitError
from quantkit.run.engine import Engine
from quantkit.run.settings import Settings
from quantkit.serve.adapters import Adapters, LoraScales
from quantkit.serve.embeddings import EmbeddingsBody
from quantkit.serve.json_endpoint import read_json
from quantkit.serve.page.rendering import MarkdownBody
from quantkit.serve.prompts import read_prompts
from quantkit.serve.refusals import refused
from quantkit.serve.request import read_request
from quantkit.serve.text_request import read_text_request
from quantkit.serve.tokens import DetokenizeBody, TokenizeBody
from tests.support.fuzz.mutate_json import JsonMutator
from tests.support.fuzz.reader import Reader
from tests.support.fuzz.readers.answers import FORMS

_N_VOCAB = 300
_ENGINE = cast(Engine, SimpleNamespace(loras=(), scales=()))
_ADAPTERS = Adapters(_ENGINE, ("lora-a", "lora-b"), (1.0, 0.5))
_SETTINGS = Settings(sampling={}, max_tokens=None, stops=("</s>",))
LOOK = {
    "type": "object",
    "properties": {
        "at": {"type": "string", "maxLength": 4},
        "kind": {"enum": ["a", 1, None]},
        "day": {"type": "string", "format": "date"},
        "deep": {"type": "object", "properties": {"x": {"type": "array", "items": {"type": "integer"}, "maxItems": 2}}},
        "maybe": {"anyOf": [{"type": "null"}, {"const": "c"}]},
    },
    "required": ["at"],
}
_TOOLS = [{"type": "function", "function": {"name": "look", "description": "looks", "parameters": LOOK}}]
_HI = [{"role": "user", "content": "hi"}]
_SEEDS: Sequence[Mapping[str, Any]] = (
    {"messages": _HI, "max_tokens": 5, "stop": ["x"], "seed": 1, "temperature": 0.5, "logit_bias": {"3": -1}, "n": 2},
    {
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": [{"type": "text", "text": "t"}]},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "1", "type": "function", "function": {"name": "look", "arguments": "{}"}}],
            },
            {"role": "tool", "tool_call_id": "1", "name": "look", "content": "r"},
            {"role": "assistant", "content": "a", "reasoning_content": "b"},
            {"role": "user", "content": "c"},
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
        "logprobs": True,
        "top_logprobs": 2,
    },
    {"messages": _HI, "tools": _TOOLS, "tool_choice": "required", "parallel_tool_calls": False},
    {"messages": _HI, "tools": _TOOLS, "tool_choice": {"type": "function", "function": {"name": "look"}}},
    {"messages": _HI, "tools": _TOOLS, "parallel_tool_calls": False, "reasoning_effort": "none"},
    {"messages": _HI, "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": LOOK}}},
    {"messages": _HI, "response_format": {"type": "json_object"}, "chat_template_kwargs": {"enable_thinking": False}},
    {"messages": _HI, "json_schema": {"$defs": {"a": LOOK}, "$ref": "#/$defs/a"}, "reasoning_effort": "low"},
    {"prompt": "once", "suffix": "end", "echo": True, "max_tokens": 0, "model": "lora-a"},
    {"prompt": [[1, 2], [3]], "logprobs": 1, "n": 3, "grammar": 'root ::= "a"'},
    {"prompt": ["a", "b"], "lora": [{"id": 1, "scale": 0.5}]},
    {"input": ["a", "b"], "encoding_format": "base64", "dimensions": 8},
    {"content": "text", "add_special": True},
    {"tokens": [1, 2, 3]},
)
WORDS: Sequence[Any] = (
    *("messages", "role", "content", "user", "system", "tool", "assistant", "developer", "type", "text", "function"),
    *("tools", "tool_choice", "auto", "none", "required", "parallel_tool_calls", "response_format", "json_schema"),
    *("schema", "properties", "items", "anyOf", "oneOf", "allOf", "$ref", "#/$defs/a", "#", "enum", "const", "format"),
    *("minLength", "maxLength", "minItems", "maxItems", "minimum", "additionalProperties", "object", "array", "string"),
    *(
        "number",
        "integer",
        "boolean",
        "null",
        "date",
        "uuid",
        "stop",
        "n",
        "seed",
        "max_tokens",
        "max_completion_tokens",
    ),
    *("logit_bias", "lora", "model", "grammar", "prompt", "input", "suffix", "name", "parameters", "arguments", "id"),
    *("reasoning_effort", "chat_template_kwargs", "functions", "function_call", "best_of", "mirostat_mode", "top_k"),
    *({"type": "string"}, {"type": ["null", "string"]}, {"format": []}, ["a"], [["a"]], -1, 64, 65, 500, 501, 2**32),
)
_REQUESTS = tuple(FORMS[name] for name in ("Qwen-Qwen3-0.6B", "GLM-4.6", "LFM2.5-8B-A1B", "google-gemma-4-31B-it"))


def _reads(body: bytes) -> Iterator[Callable[[], object]]:
    for form in (*_REQUESTS, None):
        yield partial(_chat, body, form)
    yield lambda: read_text_request(body, settings=_SETTINGS, note=_note, n_vocab=_N_VOCAB, fills=True)
    yield lambda: read_prompts(read_json(EmbeddingsBody, body).input, _N_VOCAB, "input")
    yield lambda: _ADAPTERS.chosen(_SETTINGS, read_json(LoraScales, body).root, None)
    for kind in (TokenizeBody, DetokenizeBody, MarkdownBody):
        yield partial(read_json, kind, body)


def _chat(body: bytes, form: AnswerFormat | None) -> None:
    asked = read_request(
        body, system="be brief", settings=_SETTINGS, note=_note, form=form, n_vocab=_N_VOCAB, adapters=_ADAPTERS
    )
    json.dumps(asked.messages, ensure_ascii=False).encode()


def _note(name: str) -> None:
    name.encode()


def _read(data: bytes) -> None:
    for read in _reads(data):
        try:
            read()
        except QuantkitError as error:
            _check(refused(error), len(data))


def _check(refusal: Response, size: int) -> None:
    assert 400 <= refusal.status_code < 500, refusal.body
    assert len(refusal.body) < 4096 + size, "a refusal that is longer than the request"


@cache
def _seeds() -> Sequence[bytes]:
    return [json.dumps(seed).encode() for seed in _SEEDS]


READER = Reader("requests", _seeds, _read, JsonMutator(WORDS))
