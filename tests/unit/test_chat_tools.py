"""Tools in a chat: calls are shown, and what a person types is their result."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chat_loop import Loop
from test_thoughts import TEMPLATE, TOOL
from tiny_gguf import CALL, END_THINK, THINK, Tiny, write_tiny_gguf

from quantkit.chat_template.call_reader import Call
from quantkit.errors import QuantkitError
from quantkit.run.session import ChatModel
from quantkit.run.tool_file import read_tools
from quantkit.run.transcript import Conversation


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChatModel]:
    """Whatever it is asked, it thinks, says yes and calls a tool."""
    path = tmp_path_factory.mktemp("calls") / "calls.gguf"
    answer = f"{THINK}hm{END_THINK}Yes!{CALL}"
    with ChatModel.load(write_tiny_gguf(path, Tiny(answer=answer, template=TEMPLATE)), threads=1) as loaded:
        yield loaded


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    path = tmp_path / "tools.json"
    path.write_text(json.dumps([TOOL]), encoding="utf-8")
    return path


def called(number: int) -> dict[str, Any]:
    function = {"name": "look", "arguments": '{"at": "我", "n": 2}'}
    made = {"id": f"callnum{number:02}", "type": "function", "function": function}
    return {"role": "assistant", "content": "Yes!", "reasoning_content": "hm", "tool_calls": [made]}


def result(number: int, text: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": f"callnum{number:02}", "name": "look", "content": text}


def test_calls_and_their_results(model: ChatModel, tools: Path) -> None:
    loop = Loop(model)
    said = loop.terminal(f"/tools {tools}", "hello", "a tree", "/result a bird")
    assert "(tools: look)" in said
    assert said.count('(calls look {"at": "我", "n": 2}; type what it returns)') == 3
    hello = {"role": "user", "content": "hello"}
    pending = [hello, called(1), result(1, "a tree"), called(2), result(2, "a bird"), called(3)]
    assert loop.conversation.pending == pending
    loop.tools = ()  # a call is text then, and ends the exchange
    loop.terminal("a cat")
    answered = [*pending, result(3, "a cat")]
    assert loop.conversation.messages[:-1] == answered
    assert loop.conversation.messages[-1]["content"] == f"Yes!{CALL}"
    assert (loop.conversation.pending, len(loop.conversation.turns)) == ([], 2)
    # What comes next sees all of it, as the template writes it.
    asked = loop.conversation.asking("more")
    assert asked == [*answered, loop.conversation.messages[-1], {"role": "user", "content": "more"}]
    told = {"tools": [TOOL]}
    assert model.render(asked, told=told).count("a tree") == 1
    assert "not saved: the conversation has calls" in loop.terminal(f"/save {tools.parent / 'saved.json'}")
    assert not (tools.parent / "saved.json").exists()


def test_what_is_taken_back_or_asked_again(model: ChatModel, tools: Path) -> None:
    loop = Loop(model)
    loop.terminal(f"/tools {tools}", "hello", "a tree")
    assert "a call waits for its result" in loop.terminal(f"/tools {tools}")
    loop.terminal("/edit good day")
    assert loop.conversation.pending == [{"role": "user", "content": "good day"}, called(1)]
    assert "removed the exchange that began with 'good day'; 0 exchanges left" in loop.terminal("/undo")
    assert loop.conversation.pending == []
    assert "no call waits for a result" in loop.terminal("/result x")
    assert "(no tools)" in loop.terminal('/tools ""')
    loop.terminal("hello")
    assert len(loop.conversation.turns) == 2


def test_a_result_without_an_answer_can_be_given_again(
    model: ChatModel, tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = Loop(model)
    loop.terminal(f"/tools {tools}", "hello")
    before = list(loop.conversation.pending)
    monkeypatch.setattr(Loop, "_parts", lambda self, question: iter(()))
    assert "give the result again" in loop.terminal("a tree")
    assert loop.conversation.pending == before


def test_each_of_several_calls_gets_its_result() -> None:
    conversation = Conversation()
    conversation.add_calls("hello", "", "", [Call("look", "{}"), Call("find", "{}", "mine")])
    names = []
    while (call := conversation.waiting_call) is not None:
        names.append(call["function"]["name"])
        conversation.add_result("x")
    assert names == ["look", "find"]
    assert [message.get("tool_call_id") for message in conversation.pending[2:]] == ["callnum01", "mine"]


def test_a_model_without_tools(tmp_path: Path, tools: Path) -> None:
    with ChatModel.load(write_tiny_gguf(tmp_path / "plain.gguf"), threads=1) as plain:
        loop = Loop(plain)
        assert "of its chat template, it has no tools" in loop.terminal(f"/tools {tools}")
        assert loop.tools == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "not valid JSON"),
        ("{}", "must be a list of tools"),
        ("[]", "must be a list of tools"),
        ("[1]", 'tool 1 must have "type": "function"'),
        ('[{"type": "function", "function": {"name": "a b"}}]', "tool 1 has no name of letters"),
        ('[{"type": "function", "function": {"name": "a", "parameters": 1}}]', "the parameters of a must be a JSON"),
        ('[{"type": "function", "function": {"name": "a"}}, {"type": "function", "function": {"name": "a"}}]', "twice"),
    ],
)
def test_files_that_are_no_tools(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "tools.json").write_text(text, encoding="utf-8")
    with pytest.raises(QuantkitError) as caught:
        read_tools(tmp_path / "tools.json")
    assert message in str(caught.value)
    assert caught.value.hint
