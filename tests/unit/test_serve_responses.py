"""Requests of OpenAI's newer API, as the chats that they are; ``test_serve_clients.py`` has OpenAI's client."""

from __future__ import annotations

import json
from typing import Any

import pydantic
import pytest
from openai.types.responses import ResponseStreamEvent
from openai.types.responses.response_create_params import ResponseCreateParamsBase

from quantkit.chat_template.answer_format import AnswerFormat, CallFormat, CallKind, Wrapper
from quantkit.chat_template.answer_reader import Part, Text, Thought
from quantkit.chat_template.call_reader import Call
from quantkit.run.generation_stats import GenerationStats
from quantkit.run.settings import Settings
from quantkit.serve.errors import RequestError
from quantkit.serve.reply import ChatReply
from quantkit.serve.request import ChatRequest, read_request
from quantkit.serve.response_reply import ResponseReply
from quantkit.serve.response_request import (
    IGNORED,
    UNSUPPORTED,
    ResponseBody,
    ResponseRequest,
    read_response_request,
)

CALLS = CallFormat(
    CallKind.JSON,
    Wrapper(),
    Wrapper("<call>", "</call>"),
    several=True,
    text_arguments=False,
    name=("name",),
    arguments=("arguments",),
    layout='{"name": "$name", "arguments": "$arguments"}',
)
FORM = AnswerFormat(calls=CALLS, efforts=("low", "high"))
PACKAGE = Settings({"temperature": 0.5}, stops=("END",))
PARAMETERS = {"type": "object", "properties": {"n": {"type": "integer"}}}


def read(input: Any = "hello", **body: Any) -> ResponseRequest:
    data = json.dumps({"input": input, **body}).encode()
    return read_response_request(data, system="Be kind.", settings=PACKAGE, note=pytest.fail, form=FORM)


def chat(*messages: Any, **body: Any) -> ChatRequest:
    data = json.dumps({"messages": messages, **body}).encode()
    return read_request(data, system="Be kind.", settings=PACKAGE, note=pytest.fail, form=FORM)


def same(one: ResponseRequest, other: ChatRequest) -> bool:
    return all(getattr(one, name) == getattr(other, name) for name in ChatRequest.__dataclass_fields__)


HELLO = {"role": "user", "content": "hello"}


def test_a_response_is_a_chat_in_other_words() -> None:
    assert same(read(), chat(HELLO))
    assert same(read(instructions="x"), chat({"role": "system", "content": "x"}, HELLO))
    assert same(read(stream=True, max_output_tokens=9, seed=7), chat(HELLO, stream=True, max_tokens=9, seed=7))
    assert same(read(reasoning={"effort": "low", "summary": "auto"}), chat(HELLO, reasoning_effort="low"))
    assert same(read(truncation="auto", store=False, include=[]), chat(HELLO, truncation="auto"))
    schema = {"type": "object", "properties": {"a": {"const": 1}}}
    form = {"type": "json_schema", "name": "x", "schema": schema, "strict": True}
    held = chat(HELLO, response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})
    assert same(read(text={"format": form}), held)
    tool = {"name": "look", "description": "Looks.", "parameters": PARAMETERS}
    tools = [{"type": "function", "function": tool}]
    ours = [{"type": "function", "strict": True, **tool}]
    assert same(read(tools=ours), chat(HELLO, tools=tools))
    chosen = {"type": "function", "name": "look"}
    named = {"type": "function", "function": {"name": "look"}}
    assert same(read(tools=ours, tool_choice=chosen), chat(HELLO, tools=tools, tool_choice=named))
    shown = read(tools=ours, tool_choice=chosen, metadata={"a": "b"}).shown
    assert (shown["tools"], shown["tool_choice"], shown["metadata"], shown["store"]) == (
        ours,
        chosen,
        {"a": "b"},
        False,
    )


def test_items_are_messages() -> None:
    """Those of one answer are one message; an answer is a thought, a text and calls in this order."""

    def call(number: int) -> dict[str, Any]:
        return {
            "type": "function_call",
            "id": f"fc_{number}",
            "call_id": f"call_{number}",
            "name": "f",
            "arguments": "{}",
        }

    def called(number: int) -> dict[str, Any]:
        return {"id": f"call_{number}", "type": "function", "function": {"name": "f", "arguments": "{}"}}

    def text(said: str) -> dict[str, Any]:
        content = [{"type": "output_text", "text": said, "annotations": [], "logprobs": []}]
        return {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": content}

    thought = {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]}
    result = {"type": "function_call_output", "call_id": "call_2", "output": [{"type": "input_text", "text": "r"}]}
    found = read(
        [
            {"role": "developer", "content": "x"},
            {"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
            *(thought, text("one"), call(1), call(2), {**result, "call_id": "call_1", "output": "s"}, result),
            *(text("two"), text("three"), HELLO),
        ]
    )
    assert found.messages == (
        {"role": "system", "content": "x"},
        {"role": "user", "content": "a\nb"},
        {"role": "assistant", "content": "one", "reasoning_content": "hm", "tool_calls": [called(1), called(2)]},
        {"role": "tool", "content": "s", "tool_call_id": "call_1"},
        {"role": "tool", "content": "r", "tool_call_id": "call_2"},
        {"role": "assistant", "content": "two"},
        {"role": "assistant", "content": "three"},
        HELLO,
    )


def events(reply: ResponseReply, parts: list[Part]) -> list[dict[str, Any]]:
    return [dict(event) for series in (reply.begin(), *map(reply.add, parts)) for event in series]


def test_every_event_is_one_of_openais() -> None:
    """As it is sent, also of an answer that breaks off: with all that its type must have."""
    reply = ResponseReply(ChatReply("tiny"), read().shown, len)
    found = [
        json.loads(json.dumps(event))
        for event in (
            *events(reply, [Thought("h"), Thought("m"), Text("a"), Call("f", "{}"), Text("b")]),
            *reply.fail("it broke"),
        )
    ]
    types = pydantic.TypeAdapter(ResponseStreamEvent)
    for number, event in enumerate(found):
        types.validate_python(event)
        assert event["sequence_number"] == number
    last = found[-1]["response"]
    assert (found[-1]["type"], last["status"], last["error"]["message"]) == ("response.failed", "failed", "it broke")
    assert [item["type"] for item in last["output"]] == ["reasoning", "message", "function_call", "message"]
    assert [item["status"] for item in last["output"]] == ["completed"] * 3 + ["incomplete"]


@pytest.mark.parametrize("shared", [False, True])
def test_the_counts_of_a_response(shared: bool) -> None:
    """Nothing tells strangers what was in the context."""
    reply = ResponseReply(ChatReply("tiny", shared=shared), {}, len)
    events(reply, [Thought("abc"), Text("x")])
    stats = GenerationStats(7, 0.0, 9, 0.0, stopped=True, reused_tokens=5, stop_token=1)
    (*_, end) = reply.end(stats)
    usage = end["response"]["usage"]
    assert (usage["input_tokens"], usage["output_tokens"], usage["total_tokens"]) == (7, 9, 16)
    assert usage["output_tokens_details"] == {"reasoning_tokens": 3}
    assert usage["input_tokens_details"]["cached_tokens"] == (0 if shared else 5)


def test_every_parameter_of_openais_responses_is_known() -> None:
    assert set(ResponseCreateParamsBase.__annotations__) <= {*ResponseBody.model_fields, *UNSUPPORTED, *IGNORED}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_cannot_be_had_is_refused_by_name(name: str) -> None:
    with pytest.raises(RequestError, match=f"^{name} is not supported") as caught:
        read(**{name: 2})
    assert (caught.value.param, caught.value.status) == (name, 400)
    for nothing in (None, *UNSUPPORTED[name]):
        assert read(**{name: nothing}).settings == PACKAGE


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"input": []}, "input", "^input is empty"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input.0", r"^input\[0\]: Input tag 'item_reference'"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
            "input.0.message.content.0.type",
            "must be 'input_text'",
        ),
        ({"input": [{**HELLO, "cut": 1}]}, "input.0.message.cut", "is not supported"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type", r"^tools\[0\].type must be 'function'"),
        ({"tool_choice": {"type": "mcp"}}, "tool_choice", "^tool_choice must be"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema", "is missing"),
        ({"text": {"verbosity": "low"}}, "text.verbosity", "must be 'medium'"),
        ({"reasoning": {"effort": "medium"}}, "reasoning.effort", "^reasoning.effort is one of low, high"),
        ({"reasoning": {"summary": "detailed"}}, "reasoning.summary", "must be 'auto'"),
        ({"include": ["web_search_call.results"]}, "include.0", "must be 'reasoning.encrypted_content'"),
        ({"max_output_tokens": 0}, "max_output_tokens", "^max_output_tokens must be at least 1"),
        ({"previous_response_id": "resp_1"}, "previous_response_id", "is not supported"),
        ({"store": True}, "store", "is not supported"),
    ],
)
def test_what_is_no_request(body: dict[str, Any], param: str, message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        read(**body)
    assert (caught.value.param, caught.value.status) == (param, 400)
