"""What a request may say, and what it means together with the package."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from openai.types.chat.completion_create_params import CompletionCreateParamsBase

from quantkit.chat_template.answer_format import AnswerFormat, CallFormat, CallKind, Thoughts, Wrapper
from quantkit.run.options import SamplingOptions
from quantkit.run.settings import Settings
from quantkit.serve.answer_fields import MOST_STOPS
from quantkit.serve.errors import RequestError
from quantkit.serve.request import IGNORED, UNSUPPORTED, ChatBody, ChatRequest, read_request

HELLO = {"role": "user", "content": "hello"}
PACKAGE = Settings(sampling={"temperature": 0.3, "top_k": 7}, max_tokens=9, stops=("END",))


def read(
    system: str | None = None,
    settings: Settings = PACKAGE,
    noted: list[str] | None = None,
    form: AnswerFormat | None = None,
    **body: Any,
) -> ChatRequest:
    data = json.dumps({"messages": [HELLO], **body}).encode()
    return read_request(
        data, system=system, settings=settings, note=(noted if noted is not None else []).append, form=form
    )


def test_what_a_request_leaves_out_is_the_packages() -> None:
    for request in (read("Be brief."), read("Be brief.", temperature=None, stop=None, max_tokens=None, stream=None)):
        assert request.settings == PACKAGE
        assert request.messages == ({"role": "system", "content": "Be brief."}, HELLO)
        assert (request.stream, request.include_usage) == (False, False)


def test_what_a_request_says_counts() -> None:
    request = read(temperature=0, seed=5, min_p=0.2, max_tokens=3, stream=True, stream_options={"include_usage": True})
    assert request.settings.sampling == {"temperature": 0.0, "top_k": 7, "seed": 5, "min_p": 0.2}
    assert request.settings.max_tokens == 3
    assert (request.stream, request.include_usage) == (True, True)


@pytest.mark.parametrize(
    ("parameters", "limit"),
    [
        ({"max_tokens": 3, "max_completion_tokens": 5}, 5),
        ({"max_completion_tokens": 5}, 5),
        ({"max_tokens": -1}, None),
        ({}, 9),
    ],
)
def test_the_longest_answer(parameters: dict[str, int], limit: int | None) -> None:
    assert read(**parameters).settings.max_tokens == limit


def test_a_negative_seed_is_another_one_each_time() -> None:
    assert read(seed=-1, settings=Settings({"seed": 3})).settings.sampling == {"seed": None}


@pytest.mark.parametrize("seed", [2**32 - 1, 2**32, 2**80, -2])
def test_a_seed_that_llama_cpp_does_not_have(seed: int) -> None:
    with pytest.raises(RequestError, match=r"^seed must be from 0 to 4294967294, or -1") as caught:
        read(seed=seed)
    assert caught.value.param == "seed"


def test_what_is_in_the_context_may_be_reused() -> None:
    assert [read(cache_prompt=asked).reuse for asked in (None, True, False)] == [True, True, False]


def test_so_many_stops() -> None:
    assert len(read(stop=["x"] * MOST_STOPS).settings.stops) == MOST_STOPS + 1
    with pytest.raises(RequestError, match="at most 64") as caught:
        read(stop=["x"] * (MOST_STOPS + 1))
    assert caught.value.param == "stop"


@pytest.mark.parametrize(("stop", "stops"), [("x", ("END", "x")), (["x", "y"], ("END", "x", "y")), ([], ("END",))])
def test_stops_come_on_top_of_the_packages(stop: object, stops: tuple[str, ...]) -> None:
    assert read(stop=stop).settings.stops == stops


@pytest.mark.parametrize("role", ["system", "developer"])
def test_a_system_prompt_of_its_own(role: str) -> None:
    request = read("Be brief.", messages=[{"role": role, "content": "Sing."}, HELLO])
    assert request.messages == ({"role": "system", "content": "Sing."}, HELLO)


def test_an_empty_system_prompt_is_none() -> None:
    assert read("Be brief.", messages=[{"role": "system", "content": ""}, HELLO]).messages == (HELLO,)
    assert read("").messages == (HELLO,)


def test_content_in_parts() -> None:
    parts = [{"type": "text", "text": "你"}, {"type": "text", "text": "好"}]
    assert read(messages=[{"role": "user", "content": parts}]).messages[0]["content"] == "你\n好"


def test_names_in_messages_are_noted() -> None:
    noted: list[str] = []
    assert read(noted=noted, messages=[{**HELLO, "name": "Li"}]).messages == (HELLO,)
    assert noted == ["messages.name"]


def test_an_answer_without_content() -> None:
    said = {"role": "assistant", "content": None}
    assert read(messages=[HELLO, said, HELLO]).messages == (HELLO, {**said, "content": ""}, HELLO)


@pytest.mark.parametrize("field", [{"tool_call_id": "x"}, {"prefix": True}])
def test_fields_of_a_message_that_no_template_would_hear_of_are_refused(field: dict[str, Any]) -> None:
    (name,) = field
    with pytest.raises(RequestError) as caught:
        read(messages=[{**HELLO, **field}])
    assert caught.value.param == f"messages.0.{name}"
    for nothing in (None, "", []):
        assert read(messages=[{**HELLO, name: nothing}]).messages == (HELLO,)


THINKS = AnswerFormat(
    Thoughts(Wrapper("<think>", "</think>"), "reasoning_content"),
    switches=("enable_thinking",),
    variables=("enable_thinking", "keep_all"),
)
HARD = AnswerFormat(THINKS.thoughts, efforts=("low", "high"))
IN_TAGS = Wrapper("<tool_call>", "</tool_call>")
CALLS = CallFormat(
    CallKind.JSON, Wrapper(), IN_TAGS, True, False, ("name",), ("arguments",),
    layout='{"name": "$name", "arguments": "$arguments"}',
)  # fmt: skip
USES_TOOLS, BARE = AnswerFormat(calls=CALLS), AnswerFormat(calls=replace(CALLS, call=Wrapper()))
LOOK = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


@pytest.mark.parametrize(
    ("form", "body", "told"),
    [
        (THINKS, {"chat_template_kwargs": {"enable_thinking": False}}, {"enable_thinking": False}),
        (THINKS, {"chat_template_kwargs": {"keep_all": [1]}}, {"keep_all": [1]}),
        (THINKS, {"reasoning_effort": "none"}, {"enable_thinking": False}),
        (HARD, {"reasoning_effort": "low"}, {"reasoning_effort": "low"}),
        (AnswerFormat(), {"reasoning_effort": "none"}, {}),
        (AnswerFormat(), {"chat_template_kwargs": {}, "reasoning_effort": None}, {}),
    ],
)
def test_what_the_template_is_told(form: AnswerFormat, body: dict[str, Any], told: dict[str, Any]) -> None:
    assert read(form=form, **body).settings.told == told


@pytest.mark.parametrize(
    ("form", "body", "message"),
    [
        (
            THINKS,
            {"chat_template_kwargs": {"thinking": True}},
            "'thinking' means nothing .*; it reads enable_thinking, keep_all",
        ),
        (THINKS, {"chat_template_kwargs": {"messages": []}}, "'messages' means nothing"),
        (THINKS, {"chat_template_kwargs": {"if": 1}}, "'if' means nothing"),
        (AnswerFormat(), {"chat_template_kwargs": {"enable_thinking": True}}, "means nothing to this model's"),
        (THINKS, {"reasoning_effort": "low"}, "^reasoning_effort is not supported with this model's"),
        (THINKS, {"grammar": 'root ::= "a"'}, "^grammar is not supported while this model thinks; switch that off"),
        (USES_TOOLS, {"grammar": 'root ::= "a"', "tools": [LOOK]}, "^grammar is not supported together with tools"),
        (HARD, {"reasoning_effort": "medium"}, "^reasoning_effort is one of low, high"),
        (HARD, {"reasoning_effort": "none"}, "^reasoning_effort is one of low, high"),
        (
            AnswerFormat(no_calls="it has no tools"),
            {"tools": [LOOK]},
            "it has no tools",
        ),
        (
            USES_TOOLS,
            {"tools": [LOOK], "tool_choice": {"type": "function"}},
            "^tool_choice must be 'auto', 'none', 'req",
        ),
        (USES_TOOLS, {"tools": [LOOK], "tool_choice": "always"}, "^tool_choice must be 'auto', 'none', 'required'"),
        (
            USES_TOOLS,
            {"tools": [LOOK], "tool_choice": {"type": "function", "function": {"name": "see"}}},
            "^tool_choice: there is no tool 'see'",
        ),
        (USES_TOOLS, {"tools": [], "tool_choice": "required"}, "^tool_choice asks for a call, and there are no tools"),
        (AnswerFormat(no_calls="it has no tools"), {"tools": [LOOK], "tool_choice": "required"}, "it has no tools"),
        (USES_TOOLS, {"tools": [LOOK, LOOK]}, "'look' twice"),
        (
            BARE,
            {"tools": [LOOK], "parallel_tool_calls": False},
            "^parallel_tool_calls: false is not supported with this",
        ),
        (USES_TOOLS, {"tools": [{**LOOK, "type": "custom"}]}, r"^tools\[0\].type must be 'function'"),
        (USES_TOOLS, {"tools": [{"type": "function", "function": {"name": "a b"}}]}, r"^tools\[0\].function.name"),
    ],
)
def test_what_the_template_cannot_be_told(form: AnswerFormat, body: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        read(form=form, **body)
    assert caught.value.status == 400
    assert (caught.value.param or "").split(".")[0] in body


def test_tools() -> None:
    assert read(form=USES_TOOLS, tools=[LOOK], tool_choice="auto", parallel_tool_calls=True).tools == (LOOK,)
    assert read(form=USES_TOOLS, tools=[LOOK], tool_choice="none").tools == ()
    assert read(tools=[], tool_choice="auto").tools == ()


def test_calls_that_are_forced_or_limited() -> None:
    see = {"type": "function", "function": {"name": "see"}}

    def held(**body: Any) -> str:
        request = read(form=USES_TOOLS, tools=[LOOK, see], **body)
        assert request.tools == (LOOK, see)  # the prompt tells of all
        return "" if request.settings.held is None else request.settings.held.rules

    free, one, forced = held(parallel_tool_calls=True), held(parallel_tool_calls=False), held(tool_choice="required")
    named = held(tool_choice={"type": "function", "function": {"name": "see"}})
    single = held(tool_choice="required", parallel_tool_calls=False)
    assert free == ""
    assert len({one, forced, named, single}) == 4
    assert [name in named for name in ("look", "see")] == [False, True]
    assert ["said" in rules for rules in (one, forced, named, single)] == [True, False, False, False]


def test_a_conversation_with_tools_and_thoughts() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    said = {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "hm", "refusal": None}
    result = {"role": "tool", "tool_call_id": "call_1", "content": "nothing"}
    messages = read(messages=[HELLO, said, result]).messages
    assert messages == (HELLO, {k: v or "" for k, v in said.items() if k != "refusal"}, result)


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_cannot_be_had_is_refused_by_name(name: str) -> None:
    with pytest.raises(RequestError, match=f"^{name} is not supported") as caught:
        read(**{name: 2})
    assert (caught.value.param, caught.value.status) == (name, 400)
    for nothing in (None, *UNSUPPORTED[name]):
        assert read(**{name: nothing}).settings == PACKAGE


def test_unknown_parameters_are_noted() -> None:
    noted: list[str] = []
    assert read(noted=noted, slot_id=1, user="me", model="gpt-4o").settings == PACKAGE
    assert noted == ["slot_id"]


def test_every_parameter_of_others_is_known() -> None:
    known = {*ChatBody.model_fields, *UNSUPPORTED, *IGNORED}
    # In a process of its own: imported here, it leaves warnings behind when Python ends.
    script = "from llama_cpp.server.types import CreateChatCompletionRequest as r; print(*r.model_fields)"
    theirs = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert "temperature" in theirs
    assert set(theirs) <= known, "llama-cpp-python's server"
    assert set(CompletionCreateParamsBase.__annotations__) <= known, "OpenAI's client"


def test_the_documentation_names_them() -> None:
    text = (Path(__file__).parents[2] / "docs" / "serve.md").read_text(encoding="utf-8")
    names = set(re.findall(r"`(\w+)`", text))
    assert {*UNSUPPORTED, *SamplingOptions.__annotations__, "max_tokens", "stop", "stream"} <= names


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b"{", None),
        (b"[]", None),
        (b"{}", "messages"),
        (b'{"messages": []}', "messages"),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', None),
        (b'{"messages": [{"role": "user", "content": "\xff"}]}', None),
        (b'{"messages": [{"role": "critic", "content": "x"}]}', "messages.0.role"),
        (b'{"messages": [{"role": "user", "content": null}]}', "messages.0.content"),
        (b'{"messages": [{"role": "assistant", "content": "", "tool_calls": [1]}]}', "messages.0.tool_calls.0"),
        (
            b'{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}',
            "messages.0.content.0.type",
        ),
    ],
)
def test_what_is_no_request(body: bytes, param: str | None) -> None:
    with pytest.raises(RequestError) as caught:
        read_request(body, system=None, settings=PACKAGE, note=lambda name: None)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"messages": [{**HELLO, "prefix": True}]}, "messages[0].prefix is not supported"),
        ({"messages": []}, "messages is empty"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content must be text"),
        ({"truncation": "left"}, "truncation must be 'auto' or 'disabled'"),
        ({"messages": [{"content": "x"}]}, "messages[0].role is missing"),
        ({"stop": [1]}, "stop must be a string or a list of strings"),
        ({"temperature": -1}, "temperature must be greater than or equal to 0"),
        ({"max_tokens": 0}, "max_tokens must be at least 1 (or -1 for no limit), not 0"),
        ({"max_completion_tokens": 0}, "max_completion_tokens must be at least 1 (or -1 for no limit), not 0"),
        ({"stream_options": 1}, "stream_options must be an object"),
    ],
)
def test_the_message_says_what_is_wrong(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError) as caught:
        read(**parameters)
    assert str(caught.value) == message


def test_the_message_says_that_it_is_not_json() -> None:
    with pytest.raises(RequestError, match=r"^the request is not valid JSON: EOF"):
        read_request(b"{", system=None, settings=PACKAGE, note=print)


@pytest.mark.parametrize(
    "parameters",
    [
        {"temperature": -1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"temperature": "hot"},
        {"top_p": 1.5},
        {"top_k": -1},
        {"seed": 0.5},
        {"max_tokens": 0},
        {"repeat_penalty": 0},
        {"stop": [1]},
        {"stream_options": {"include_usage": "maybe"}},
        {"stream_options": {"include_usage": 1}},
        {"temperature": "0.5"},
        {"temperature": True},
        {"top_k": "7"},
        {"stream": "1"},
        {"stream": 1},
        {"cache_prompt": "no"},
    ],
)
def test_values_that_make_no_sense(parameters: dict[str, Any]) -> None:
    with pytest.raises(RequestError) as caught:
        read(**parameters)
    (name,) = parameters
    assert str(caught.value.param).startswith(name)
