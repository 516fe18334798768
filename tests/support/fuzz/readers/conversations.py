"""JSON that a person gives: saved conversations, lists of tools, prompts of a batch, training data, the history."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from quantkit.material.data_file import read_data
from quantkit.run.batch import read_prompts
from quantkit.run.history import History
from quantkit.run.tool_file import read_tools
from quantkit.run.transcript import load_conversation, save_conversation
from tests.support.fuzz.mutate_json import JsonMutator
from tests.support.fuzz.reader import Reader, read_each
from tests.support.fuzz.scratch import file

_TALK = [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
_SEEDS: Sequence[Any] = (
    {"schema": 1, "model": "m.gguf", "messages": [*_TALK[:2], {**_TALK[2], "reasoning_content": "c"}]},
    [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {"a": {}}}}}],
    {"messages": _TALK[1:2], "id": 3},
    {"prompt": "a"},
    {"messages": _TALK},
    [{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}],
    {"instruction": "a", "input": "b", "output": "c"},
    "typed",
)
_WORDS = (
    *("messages", "role", "content", "user", "assistant", "system", "tool", "schema", "reasoning_content", "prompt"),
    *("type", "function", "name", "parameters", "conversations", "from", "value", "human", "gpt", "instruction"),
    *("input", "output", "text", "tool_calls", "line", "answer", "arguments", "tools"),
)


def _saved(data: bytes) -> None:
    path = file("a.json", data)
    found = load_conversation(path)
    json.dumps(found.messages, ensure_ascii=False).encode()
    save_conversation(path, found, "m.gguf")
    assert load_conversation(path).messages == found.messages


def _tools(data: bytes) -> None:
    json.dumps(read_tools(file("tools.json", data)), ensure_ascii=False, allow_nan=False).encode()


def _prompts(data: bytes) -> None:
    for prompt in read_prompts(file("prompts.jsonl", data), "be brief"):
        json.dumps([prompt.given, prompt.messages], ensure_ascii=False, allow_nan=False).encode()


def _history(data: bytes) -> None:
    for entry in History(file("history.jsonl", data + b"\n")).entries:
        assert isinstance(entry, str)


_READS: Sequence[Callable[[bytes], object]] = (
    _saved,
    _tools,
    _prompts,
    lambda data: read_data(file("data.jsonl", data)),
    _history,
)


def _read(data: bytes) -> None:
    read_each(*(partial(read, data) for read in _READS))


READER = Reader("conversations", lambda: [json.dumps(seed).encode() for seed in _SEEDS], _read, JsonMutator(_WORDS))
