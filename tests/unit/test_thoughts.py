"""A model that thinks and calls tools: in the chat, in the server and in Python; and what stays of a thought."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from chat_loop import Loop
from click.testing import CliRunner
from tiny_gguf import CALL, END_THINK, THINK, Tiny, write_tiny_gguf
from transformers.utils.chat_template_utils import render_jinja_template

import quantkit
from quantkit.chat_template.answer_format import Wrapper
from quantkit.chat_template.answer_reader import Text, Thought
from quantkit.chat_template.call_reader import Call
from quantkit.cli.chat import command as chat_command
from quantkit.errors import ChatFormatError
from quantkit.run.asking import stream_answer
from quantkit.run.batch import answer_prompts, read_prompts
from quantkit.run.screen import ANSWERING, THINKING
from quantkit.run.session import ChatModel
from quantkit.run.settings import Settings, with_thinking
from quantkit.run.transcript import load_conversation, save_conversation
from tests.support.served import Server, running_server

GREEDY = Settings({"temperature": 0.0})
# A thought stays in the last answer alone; an empty one is written where thinking is switched off.
TEMPLATE = (
    "{{ bos_token }}{% if tools %}<|start_header_id|>system<|end_header_id|>\n\n{{ tools | tojson }}<|eot_id|>"
    "{% endif %}{% for message in messages %}<|start_header_id|>{{ message.role }}<|end_header_id|>\n\n"
    "{% if message.reasoning_content and loop.last %}<think>\n{{ message.reasoning_content }}\n</think>\n\n{% endif %}"
    "{{ message.content }}{% for call in message.tool_calls or [] %}<tool_call>\n"
    '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}\n</tool_call>'
    "{% endfor %}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
OPENS = TEMPLATE.replace(
    "{% if enable_thinking is defined and", "{% if enable_thinking is not defined %}<think>\n\n{% elif"
)
ANSWER = f"{THINK}hm 二{END_THINK}Yes!"
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
HELLO = [{"role": "user", "content": "hello"}]


def tiny(folder: Path, answer: str = ANSWER, template: str = TEMPLATE) -> Path:
    return write_tiny_gguf(folder / "thinks.gguf", Tiny(answer=answer, template=template))


@pytest.fixture
def model(tmp_path: Path) -> Iterator[ChatModel]:
    with ChatModel.load(tiny(tmp_path), threads=1) as model:
        yield model


def test_the_parts_of_an_answer(model: ChatModel) -> None:
    parts = list(stream_answer(model, HELLO, GREEDY))
    assert "".join(part.text for part in parts if isinstance(part, Thought)) == "hm 二"
    assert "".join(part.text for part in parts if isinstance(part, Text)) == "Yes!"
    assert [type(part) for part in parts] == sorted((type(part) for part in parts), key=lambda kind: kind is Text)
    assert model.answers.switches == ("enable_thinking",)


def test_a_prompt_that_opens_the_thought(tmp_path: Path) -> None:
    """The model goes on inside of it, and writes no marker at its beginning."""
    with ChatModel.load(tiny(tmp_path, f"hm{END_THINK}Yes!", OPENS), threads=1) as model:
        assert model.opening(HELLO).endswith("<think>\n\n")
        parts = list(stream_answer(model, HELLO, GREEDY))
        assert "".join(part.text for part in parts if isinstance(part, Thought)) == "hm"
        assert "".join(part.text for part in parts if isinstance(part, Text)) == "Yes!"
        off = with_thinking(GREEDY, model, "off")
        assert all(isinstance(part, Text) for part in stream_answer(model, HELLO, off))


def test_markers_that_are_control_tokens(tmp_path: Path) -> None:
    """They are never part of a text, and are told apart from it."""
    start, end = "<|done|>", "<|begin_of_text|>"
    template = TEMPLATE.replace("<think>\n", start).replace("\n</think>\n\n", end)
    answer = f"{start}hm{end}Yes!"
    with ChatModel.load(tiny(tmp_path, answer, template), threads=1) as model:
        assert model.answers.thoughts is not None
        assert model.answers.thoughts.marks == Wrapper(start, end)
        assert list(model.stream(HELLO, max_tokens=9)) == list("hmYes!"), "without them"
        parts = list(stream_answer(model, HELLO, GREEDY))
        assert "".join(part.text for part in parts if isinstance(part, Thought)) == "hm"
        assert "".join(part.text for part in parts if isinstance(part, Text)) == "Yes!"


def test_the_choice(model: ChatModel, tmp_path: Path) -> None:
    off, on = (model.render(HELLO, told=with_thinking(GREEDY, model, choice).told) for choice in ("off", "on"))
    assert off == on + "<think>\n\n</think>\n\n"
    assert with_thinking(GREEDY, model, None) == GREEDY
    with ChatModel.load(write_tiny_gguf(tmp_path / "plain.gguf"), threads=1) as plain:
        with pytest.raises(ChatFormatError, match=r"--thinking off: plain.gguf: its chat template has no") as caught:
            with_thinking(GREEDY, plain, "off")
        assert caught.value.hint == "leave --thinking out: the chat template decides"


def test_the_chat_shows_thoughts_and_the_template_decides_what_stays(model: ChatModel, tmp_path: Path) -> None:
    loop = Loop(model)
    loop.terminal("hello", "again")
    assert loop.out.getvalue() == "Yes!\nYes!\n"
    assert re.sub(r"\s+", " ", loop.err.getvalue()).count(f"{THINKING} hm 二 {ANSWERING}") == 2
    assert loop.conversation.turns[1] == {"role": "assistant", "content": "Yes!", "reasoning_content": "hm 二"}
    # The history is what transformers renders of the same messages.
    asked = loop.conversation.asking("more")
    ((theirs,), _) = render_jinja_template(
        [asked], chat_template=TEMPLATE, bos_token=model.bos_token, eos_token="", add_generation_prompt=True
    )
    assert model.render(asked) == theirs
    assert "hm" not in theirs
    assert "hm" in model.render(loop.conversation.messages)
    save_conversation(tmp_path / "saved.json", loop.conversation, "m")
    assert load_conversation(tmp_path / "saved.json").turns == loop.conversation.turns


def test_a_pipe_gets_the_answers_alone(model: ChatModel) -> None:
    loop = Loop(model)
    loop.run_lines(["hello\n"])
    assert loop.out.getvalue() == "Yes!\n"


def test_no_color(model: ChatModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The markers say it where nothing can be dimmed."""
    monkeypatch.setenv("NO_COLOR", "1")
    loop = Loop(model)
    loop.run_lines(["hello\n"])
    assert "\x1b" not in loop.err.getvalue()
    assert THINKING in loop.err.getvalue()


def test_answers_to_a_file(model: ChatModel, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("hello\n", encoding="utf-8")
    answer_prompts(model, GREEDY, read_prompts(tmp_path / "prompts.txt", None), tmp_path / "out.jsonl")
    line = json.loads((tmp_path / "out.jsonl").read_text(encoding="utf-8"))
    assert (line["answer"], line["reasoning_content"]) == ("Yes!", "hm 二")


def test_python(tmp_path: Path) -> None:
    with quantkit.Chat(tiny(tmp_path), parameters={"temperature": 0}, thinking="on") as chat:
        assert (chat.answer("hello"), chat.last_thought) == ("Yes!", "hm 二")
    with pytest.raises(quantkit.QuantkitError, match="thinking 'maybe' is unknown"):
        quantkit.Chat(tmp_path / "thinks.gguf", thinking="maybe")


def test_the_command(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "plain.gguf")
    done = CliRunner().invoke(chat_command, [str(path), "--thinking", "off"], input="hello\n")
    assert isinstance(done.exception, ChatFormatError)
    assert "--thinking off" in str(done.exception)


# -- tools -------------------------------------------------------------------------------------------------------------


def test_calls(tmp_path: Path) -> None:
    with ChatModel.load(tiny(tmp_path, f"{THINK}hm{END_THINK}Yes!{CALL}"), threads=1) as model:
        *_, call = stream_answer(model, HELLO, GREEDY, tools=[TOOL])
        assert call == Call("look", '{"at": "我", "n": 2}')
        assert all(not isinstance(part, Call) for part in stream_answer(model, HELLO, GREEDY))
        past = {"id": "c", "type": "function", "function": {"name": "look", "arguments": call.arguments}}
        talk = [
            *HELLO,
            {"role": "assistant", "content": "", "tool_calls": [past]},
            {"role": "tool", "tool_call_id": "c", "content": "a tree"},
        ]
        theirs = [
            {**talk[1], "tool_calls": [{**past, "function": {"name": "look", "arguments": {"at": "我", "n": 2}}}]}
        ]
        ((prompt,), _) = render_jinja_template(
            [[talk[0], *theirs, talk[2]]], chat_template=TEMPLATE, bos_token=model.bos_token, tools=[TOOL],
            add_generation_prompt=True,
        )  # fmt: skip
        assert model.render(talk, told={"tools": [TOOL]}) == prompt
        broken = [{**talk[1], "tool_calls": [{**past, "function": {"name": "look", "arguments": "{"}}]}]
        with pytest.raises(ChatFormatError, match="arguments of a call of look are not JSON"):
            model.render([talk[0], *broken])


def test_a_model_without_tools(tmp_path: Path) -> None:
    with ChatModel.load(write_tiny_gguf(tmp_path / "plain.gguf"), threads=1) as model:
        with pytest.raises(ChatFormatError, match=r"tools cannot be used with this model: .*it has no tools"):
            list(stream_answer(model, HELLO, GREEDY, tools=[TOOL]))
        with pytest.raises(ChatFormatError, match="cannot have calls of tools: it has no tools"):
            model.render([*HELLO, {"role": "tool", "content": "x"}])


# -- the server --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("served")
    path = tiny(folder, f"{THINK}hm 二{END_THINK}Yes!{CALL}")
    with running_server(folder / "log.txt", path, "--param", "temperature=0") as server:
        yield server


def test_an_answer_with_a_thought_and_a_call(server: Server) -> None:
    (choice,) = server.chat("hello", tools=[TOOL]).json["choices"]
    message = choice["message"]
    assert (message["content"], message["reasoning_content"], choice["finish_reason"]) == (
        "Yes!",
        "hm 二",
        "tool_calls",
    )
    (call,) = message["tool_calls"]
    assert call["function"] == {"name": "look", "arguments": '{"at": "我", "n": 2}'}
    assert (call["type"], call["id"].startswith("call_")) == ("function", True)
    (choice,) = server.chat("hello", tools=[TOOL], tool_choice="none").json["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == (f"Yes!{CALL}", "stop")
    assert "tool_calls" not in choice["message"]


def test_the_same_as_a_stream(server: Server) -> None:
    first, *events, last, _ = server.chat("hello", tools=[TOOL], stream=True).events
    deltas: list[dict[str, Any]] = [event["choices"][0]["delta"] for event in events]
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "hm 二"
    assert "".join(delta.get("content", "") for delta in deltas) == "Yes!"
    assert [list(delta) for delta in deltas][-1] == ["tool_calls"]
    (call,) = deltas[-1]["tool_calls"]
    assert (call["index"], json.loads(call["function"]["arguments"])) == (0, {"at": "我", "n": 2})
    assert (last["choices"][0]["finish_reason"], first["choices"][0]["delta"]["role"]) == ("tool_calls", "assistant")


def test_openais_client(server: Server) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")
    asked: list[Any] = [{"role": "user", "content": "hello"}]
    first = client.chat.completions.create(model="m", messages=asked, tools=[TOOL]).choices[0].message  # type: ignore[list-item]
    assert first.tool_calls is not None
    asked += [first, {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "a tree"}]
    second = client.chat.completions.create(model="m", messages=asked, tools=[TOOL])  # type: ignore[list-item]
    assert second.choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_is_forced(server: Server, stream: bool) -> None:
    """The model thinks, would say "Yes!" and call another tool, and calls the one that the request names."""
    kinds = {"type": "object", "properties": {"kind": {"enum": ["a b", 3]}}, "required": ["kind"]}
    see = {"type": "function", "function": {"name": "see", "parameters": {**kinds, "additionalProperties": False}}}
    choice: dict[str, Any] = {"type": "function", "function": {"name": "see"}}
    answer = server.chat("hello", tools=[TOOL, see], tool_choice=choice, stream=stream)
    if stream:
        deltas = [event["choices"][0]["delta"] for event in answer.events[:-1]]
        said = {key: "".join(delta.get(key) or "" for delta in deltas) for key in ("content", "reasoning_content")}
        (call,) = (call for delta in deltas for call in delta.get("tool_calls", ()))
    else:
        said = message = answer.json["choices"][0]["message"]
        (call,) = message["tool_calls"]
    assert (said["content"] or "", said["reasoning_content"]) == ("", "hm 二")
    assert call["function"]["name"] == "see"
    assert json.loads(call["function"]["arguments"])["kind"] in ("a b", 3)


def test_json_behind_a_thought(server: Server) -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": ["Yes", "No"]}}}
    message = server.chat("hello", response_format=schema).json["choices"][0]["message"]
    assert message["reasoning_content"] == "hm 二"
    assert json.loads(message["content"]) in ("Yes", "No")


def test_what_a_request_says_about_thinking(server: Server) -> None:
    def tokens(**body: Any) -> int:
        return int(server.chat("hello", max_tokens=1, **body).json["usage"]["prompt_tokens"])

    off = tokens(chat_template_kwargs={"enable_thinking": False})
    assert tokens() == tokens(chat_template_kwargs={"enable_thinking": True}) < off == tokens(reasoning_effort="none")
    refused = server.chat("hello", reasoning_effort="high")
    assert (refused.status, refused.error["param"]) == (400, "reasoning_effort")
    unknown = server.chat("hello", chat_template_kwargs={"thinking": True})
    assert (unknown.status, unknown.error["param"]) == (400, "chat_template_kwargs")


def test_the_manifest_and_the_card_say_it(tmp_path: Path) -> None:
    folder = quantkit.package(tiny(tmp_path), tmp_path / "out")
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["chat"]["answers"] == {
        "thoughts": [THINK, END_THINK],
        "switches": ["enable_thinking"],
        "efforts": [],
        "calls": "a JSON object with name and arguments",
        "no_calls": "",
    }
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "## Thoughts and tools" in card
    assert "`--chat-template-kwargs '{\"enable_thinking\": false}'`" in card
