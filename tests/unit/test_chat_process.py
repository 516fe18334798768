"""``quantkit.Chat``: a model in a process of its own, whatever this one has imported, and whatever happens there."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from dataclasses import asdict
from io import StringIO
from pathlib import Path

import pytest
from tiny_gguf import Tiny, write_tiny_gguf

import quantkit
from quantkit.chat_template.process import TemplateLimitError
from quantkit.run.chat_worker import Questions, refusal

TALK = [
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": "b"},
    {"role": "user", "content": "c"},
]


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture(scope="module")
def chat(gguf: Path) -> Iterator[quantkit.Chat]:
    with quantkit.Chat(str(gguf), parameters={"temperature": 0, "num_predict": 8, "num_thread": 1}) as model:
        yield model


def test_an_answer_whole_and_in_pieces(chat: quantkit.Chat, gguf: Path) -> None:
    assert chat.gguf == gguf
    assert (chat.system, chat.n_ctx > 0) == (None, True)
    whole = chat.answer("a")
    assert "".join(chat.stream([{"role": "user", "content": "a"}])) == whole
    assert chat.last_stats is not None
    assert chat.last_stats.prompt_tokens > 0


def test_a_conversation_and_parameters_of_one_answer(chat: quantkit.Chat) -> None:
    chat.answer(TALK, parameters={"num_predict": 1})
    assert chat.last_stats is not None
    assert chat.last_stats.generated_tokens <= 1
    longer = chat.last_stats.prompt_tokens
    chat.answer((*TALK[:1],))  # type: ignore[arg-type]
    assert chat.last_stats.prompt_tokens < longer


def test_the_system_prompt(gguf: Path) -> None:
    with quantkit.Chat(gguf, system="s", parameters={"num_predict": 1, "temperature": 0}) as chat:
        counts = []
        for messages in ([], [{"role": "system", "content": ""}], [{"role": "system", "content": "tt"}]):
            chat.answer([*messages, *TALK[:1]])
            assert chat.last_stats is not None
            counts.append(chat.last_stats.prompt_tokens)
        own, none, other = counts
        assert none < own < other


def test_who_stops_reading_stops_the_model(tmp_path: Path) -> None:
    endless = write_tiny_gguf(tmp_path / "endless.gguf", Tiny(stop=""))
    with quantkit.Chat(endless, parameters={"temperature": 0, "num_thread": 1}) as chat:
        pieces = chat.stream("a")
        next(pieces)
        with pytest.raises(quantkit.QuantkitError, match="the last answer is still being read"):
            chat.answer("b")
        pieces.close()  # type: ignore[attr-defined]
        assert chat.last_stats is not None
        assert chat.last_stats.stop_reason in ("interrupted", "context_full")
        assert chat.answer("b", parameters={"num_predict": 2})


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([], "the last message must have the role 'user'"),
        (5, '"messages" must be a list'),
        ([{"role": "user"}], 'message 1 must have "role" and "content"'),
        ([{"role": "assistant", "content": "a"}], "message 1 must have the role 'user'"),
        (TALK[:2], "the last message must have the role 'user'"),
        ("\ud800", "not valid Unicode"),
    ],
)
def test_what_is_no_conversation(chat: quantkit.Chat, messages: object, said: str) -> None:
    with pytest.raises(quantkit.QuantkitError, match=said):
        chat.answer(messages)  # type: ignore[arg-type]
    assert chat.answer("a") is not None


def test_errors_of_the_process_keep_their_class(chat: quantkit.Chat, gguf: Path, tmp_path: Path) -> None:
    with pytest.raises(quantkit.ContextFullError, match="the context holds") as full:
        chat.answer("a" * 50_000)
    assert full.value.hint
    with pytest.raises(quantkit.ChatFormatError, match="unknown Ollama parameter 'tempo'"):
        chat.answer("a", parameters={"tempo": 1})
    with pytest.raises(quantkit.QuantkitError, match="num_ctx is set when the model loads"):
        chat.answer("a", parameters={"num_ctx": 64})
    with pytest.raises(quantkit.QuantkitError, match=r"parameters\['temperature'\] is <object"):
        chat.answer("a", parameters={"temperature": object()})  # type: ignore[dict-item]
    with pytest.raises(quantkit.GGUFError, match="no such file"):
        quantkit.Chat(tmp_path / "none.gguf")
    with pytest.raises(quantkit.QuantkitError, match="not a folder made by quantkit build"):
        quantkit.Chat(tmp_path)
    (tmp_path / "text.gguf").write_text("no model", encoding="utf-8")
    with pytest.raises(quantkit.GGUFError, match=r"text\.gguf"):
        quantkit.Chat(tmp_path / "text.gguf")
    mute = write_tiny_gguf(tmp_path / "mute.gguf", Tiny(template=None))
    with pytest.raises(quantkit.ChatFormatError, match="no chat template"):
        quantkit.Chat(mute)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"path": 3}, "path is 3; expected a path"),
        ({"system": 3}, "system is 3; expected text"),
        ({"parameters": 3}, "parameters is 3"),
        ({"n_gpu_layers": "all"}, "n_gpu_layers is 'all'; expected a whole number"),
        ({"n_gpu_layers": True}, "n_gpu_layers is True; expected a whole number"),
    ],
)
def test_arguments_that_are_refused(gguf: Path, options: dict[str, object], said: str) -> None:
    with pytest.raises(quantkit.QuantkitError, match=said):
        quantkit.Chat(**{"path": gguf, **options})  # type: ignore[arg-type]


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_crash_is_an_error_and_not_the_end(gguf: Path) -> None:
    with quantkit.Chat(gguf) as chat:
        os.kill(chat._process.pid, signal.SIGKILL)
        with pytest.raises(quantkit.QuantkitError, match="the process that runs the model ended with signal SIGKILL"):
            chat.answer("a")
        with pytest.raises(quantkit.QuantkitError, match="the model is closed"):
            chat.answer("a")


@pytest.mark.skipif(os.name != "posix", reason="process ids")
def test_nothing_stays_behind(gguf: Path) -> None:
    chat = quantkit.Chat(gguf)
    pid = chat._process.pid
    chat.close()
    chat.close()
    assert not is_running(pid)
    with pytest.raises(quantkit.QuantkitError, match="the model is closed"):
        chat.answer("a")
    chat = quantkit.Chat(gguf)
    pid = chat._process.pid
    assert is_running(pid)
    del chat
    gc.collect()
    assert not is_running(pid)


def test_a_refusal_has_the_nearest_public_class() -> None:
    assert refusal(TemplateLimitError("too slow")) == {
        "refused": "ChatFormatError",
        "message": "too slow",
        "hint": TemplateLimitError.default_hint,
    }


def test_questions_are_read_while_an_answer_is_made() -> None:
    questions = Questions(iter(StringIO('{"number": 1}\n{"number": 2}\n')))
    assert [question["number"] for question in questions] == [1, 2]
    assert not questions.wanted(2)  # nobody is there any more


def test_stats_go_through_json(chat: quantkit.Chat) -> None:
    chat.answer("a")
    assert chat.last_stats is not None
    assert quantkit.GenerationStats(**asdict(chat.last_stats)) == chat.last_stats
