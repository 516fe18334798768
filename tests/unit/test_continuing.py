"""An answer that was cut goes on as if it had not been: the same text, and the same tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from chat_loop import GREEDY, CtrlCAfter, Loop, said
from test_thoughts import TEMPLATE
from tiny_gguf import ANSWER, END_THINK, THINK, Tiny, write_tiny_gguf

from quantkit.chat_template.answer_format import AnswerFormat, CallFormat, CallKind, Thoughts, Wrapper
from quantkit.chat_template.answer_reader import AnswerReader, Part, Text, Thought
from quantkit.chat_template.answers import THOUGHT
from quantkit.run.asking import stream_answer
from quantkit.run.chat import NO_ANSWER, NOTHING_MORE, ONLY_THOUGHT
from quantkit.run.continuing import HALF, _said, _tokens, cut_answer
from quantkit.run.session import ChatModel
from quantkit.run.transcript import load_conversation, save_conversation
from quantkit.serve.errors import RequestError
from quantkit.serve.request import read_request
from tests.support.fuzz.tiny_gguf import sentencepiece

QUESTION = [{"role": "user", "content": "Write a poem."}]


def spoken(parts: Iterator[Part] | Sequence[Part]) -> dict[str, str]:
    """The fields of an answer's message."""
    found = list(parts)
    thought = "".join(part.text for part in found if isinstance(part, Thought))
    text = "".join(part.text for part in found if isinstance(part, Text))
    return {"content": text, **({THOUGHT: thought} if thought else {})}


def whole(model: ChatModel, count: int | None = None, **more: str) -> dict[str, str]:
    """An answer of so many tokens, or its rest behind *more*."""
    messages = [*QUESTION, {"role": "assistant", **more}] if more else QUESTION
    return spoken(stream_answer(model, messages, replace(GREEDY, max_tokens=count), continues=bool(more)))


def joined(first: dict[str, str], rest: dict[str, str]) -> dict[str, str]:
    content = (first["content"].rstrip(HALF) if rest["content"] else first["content"]) + rest["content"]
    thought = first.get(THOUGHT, "") + rest.get(THOUGHT, "")
    return {"content": content, **({THOUGHT: thought} if thought else {})}


@pytest.fixture(scope="module")
def kit(small_gguf: Path) -> Iterator[ChatModel]:
    """A trained model, whose answers depend on all of the prompt."""
    with ChatModel.load(small_gguf, threads=1, n_ctx=256) as model:
        yield model


def test_a_cut_answer_goes_on_with_the_same_tokens(kit: ChatModel) -> None:
    uncut = whole(kit, 48)
    tokens = list(kit.engine.lanes.latest)
    start = len(kit.prompt_tokens(QUESTION))
    count = kit.last_stats.generated_tokens if kit.last_stats else 0
    assert count > 8
    for cut in range(1, count):
        first = whole(kit, cut)
        found = cut_answer(kit, [*QUESTION, {"role": "assistant", **first}])
        assert found.tokens == tokens[: len(found.tokens)], "what was generated"
        assert len(found.tokens) == start + cut
        assert joined(first, whole(kit, 48 - cut, **first)) == uncut


THINKING = f"{THINK}hm 🙂{END_THINK}Yes你!"


@pytest.mark.parametrize(("answer", "template"), [(ANSWER, None), (THINKING, TEMPLATE)])
def test_thoughts_and_half_characters(answer: str, template: str | None, tmp_path: Path) -> None:
    tiny = Tiny(answer=answer) if template is None else Tiny(answer=answer, template=template)
    with ChatModel.load(write_tiny_gguf(tmp_path / "tiny.gguf", tiny), threads=1) as model:
        uncut = whole(model)
        count = model.last_stats.generated_tokens if model.last_stats else 0
        assert uncut["content"].startswith("Yes" if template else "Hi")
        for cut in range(1, count + 1):
            first = whole(model, cut)
            if first["content"] or first.get(THOUGHT):
                shown = {key: text.rstrip(HALF) for key, text in first.items()}
                assert joined(shown, whole(model, **first)) == uncut, first


def test_what_a_tokenizer_puts_before_a_text_is_not_said(tmp_path: Path) -> None:
    path = tmp_path / "spm.gguf"
    path.write_bytes(sentencepiece())
    with ChatModel.load(path, only_vocabulary=True) as model:
        asked = "a</s>"  # behind a special token there is a space
        prompt = model.text_tokens(asked)
        for text in ("ab", " ab", "  a b", "\na", "a\n", "你"):
            found = _tokens(model, asked, text, lambda: True)
            assert found[: len(prompt)] == prompt
            pieces = [model.engine.piece(token, special=True) for token in found[len(prompt) :]]
            assert b"".join(pieces).decode() == text


THOUGHTS = Thoughts(Wrapper("<think>", "</think>"), THOUGHT)


@pytest.mark.parametrize(
    ("written", "thought", "content", "thinks", "said"),
    [
        ("Q:A:<t>\ncontinuedthought0\n</t>\ncontinuedcontent0", "hm", "x ", False, "<t>\nhm\n</t>\nx "),
        ("Q:A:<t>\ncontinuedthought0\n</t>\ncontinuedcontent0", "hm", "", False, "<t>\nhm"),
        ("Q:A:<empty>continuedcontent0!", "", "x", False, "<empty>x"),
        ("Q:A:continuedcontent0!", "hm", "x", False, "<think>\nhm\n</think>\n\nx"),  # it leaves thoughts out
        ("Q:A:continuedcontent0!", "hm", "", True, "hm"),
        ("Q-A:continuedcontent0", "", "x", True, "\n</think>\n\nx"),  # the prompt begins a thought, and there is none
        ("", "", "x", False, "x"),  # it accepts no answer at the end
    ],
)
def test_what_the_template_writes_between(written: str, thought: str, content: str, thinks: bool, said: str) -> None:
    assert _said("Q:A:", written, thought, content, THOUGHTS, thinks=thinks) == said


def test_what_was_held_back_is_told_once() -> None:
    """An end that could have become a marker was text, because the answer ended there."""
    calls = CallFormat(
        CallKind.JSON, Wrapper(), Wrapper("<call>", "</call>"), several=True, text_arguments=False, name=("name",)
    )
    reader = AnswerReader(AnswerFormat(calls=calls), tools={"f": {}})
    reader.resume("a <ca")
    assert spoken([*reader.push("t> b"), *reader.finish()]) == {"content": "t> b"}
    reader = AnswerReader(AnswerFormat(thoughts=THOUGHTS, no_calls=""))
    reader.resume("<think>\nhm </th")
    assert spoken([*reader.push("ink>\n\n yes"), *reader.finish()]) == {"content": "yes"}


# -- the server's requests ---------------------------------------------------------------------------------------------

ANSWERED: list[Any] = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "One, t"}]
CALL = {"type": "function", "function": {"name": "f", "arguments": "{}"}}


def read(messages: list[Any], **body: Any) -> bool:
    data = json.dumps({"messages": messages, **body}).encode()
    return read_request(data, system=None, settings=GREEDY, note=pytest.fail).continues


def test_when_an_answer_goes_on() -> None:
    assert read(ANSWERED)
    assert read(ANSWERED, continue_final_message=True, add_generation_prompt=False)
    assert not read(ANSWERED[:1], continue_final_message=False, add_generation_prompt=True)
    assert not read(ANSWERED, continue_final_message=False)
    assert not read(ANSWERED, add_generation_prompt=True)
    assert not read(ANSWERED[:1])


@pytest.mark.parametrize(
    ("messages", "body", "param", "message"),
    [
        (
            ANSWERED,
            {"continue_final_message": True, "add_generation_prompt": True},
            None,
            "not supported together with",
        ),
        (ANSWERED[:1], {"continue_final_message": True}, None, "the last message is no answer"),
        ([*ANSWERED, {"role": "assistant", "content": "", "tool_calls": [CALL]}], {}, None, "has calls of tools"),
        (ANSWERED, {"response_format": {"type": "json_object"}}, None, "cannot be held to a grammar"),
        (ANSWERED[:1], {"add_generation_prompt": False}, "add_generation_prompt", "without an answer that goes on"),
    ],
)
def test_what_cannot_go_on(messages: list[Any], body: dict[str, Any], param: str | None, message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        read(messages, **body)
    assert caught.value.param == (param or "continue_final_message")


# -- in a chat ---------------------------------------------------------------------------------------------------------


def test_continue_in_a_chat(kit: ChatModel, tmp_path: Path) -> None:
    """After a limit and after Ctrl-C, the question's exchange stays one; files are those of before."""
    loop, file = Loop(kit, replace(GREEDY, max_tokens=5)), tmp_path / "chat.json"
    question = QUESTION[0]["content"]
    assert "/continue goes on" in loop.terminal(question)
    loop.terminal("/continue", "/set num_predict 38", "/continue")
    expected = said(question, whole(kit, 48)["content"])
    assert loop.conversation.messages == expected
    save_conversation(file, loop.conversation, "kit")
    assert load_conversation(file).messages == expected
    stopped = Loop(kit, GREEDY, out=CtrlCAfter(whole(kit, 5)["content"]))
    stopped.terminal(question)
    assert len(stopped.conversation.messages[1]["content"]) < len(expected[1]["content"])
    stopped.terminal("/set num_predict 200", "/continue")
    assert stopped.conversation.messages[1]["content"] == whole(kit, 200)["content"]


def test_continue_in_a_thought(tmp_path: Path) -> None:
    """A thought without an answer is no exchange, but goes on; not for ever, and not in the place of an answer."""
    tiny = Tiny(answer=THINKING, template=TEMPLATE)
    with ChatModel.load(write_tiny_gguf(tmp_path / "tiny.gguf", tiny), threads=1) as model:
        loop = Loop(model, replace(GREEDY, max_tokens=2))
        assert ONLY_THOUGHT in loop.terminal("hello")
        assert loop.conversation.messages == []
        assert ONLY_THOUGHT in loop.terminal("/set num_predict 1", "/continue")
        loop.terminal("/set num_predict 50", "/continue")
        uncut = {"role": "assistant", **whole(model)}
        assert loop.conversation.messages == [{"role": "user", "content": "hello"}, uncut]
        for line in ("/reset", "/undo", "other"):
            loop.terminal("hello", "/set num_predict 2", "hi")
            assert loop.unfinished == ("hi", "h")
            loop.terminal("/set num_predict 50", line)
            assert loop.unfinished is None
        said = loop.terminal("/set num_predict 2", "/regenerate", "/set num_predict 50", "/continue")
        assert NO_ANSWER in said
        assert loop.conversation.messages[-1] == uncut


def test_continue_where_nothing_can_come(tmp_path: Path) -> None:
    with ChatModel.load(write_tiny_gguf(tmp_path / "tiny.gguf"), threads=1) as model:
        loop = Loop(model)
        assert "there is no exchange yet" in loop.terminal("/continue")
        assert "the last answer is whole" in loop.terminal("hello", "/continue")
        loop.last = None  # as after /load
        assert NOTHING_MORE in loop.terminal("/continue")
        assert loop.conversation.messages == said("hello", ANSWER)
