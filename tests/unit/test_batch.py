"""Answers to a file of prompts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chat_loop import GREEDY
from tiny_gguf import ANSWER, LLAMA_3, Tiny, write_tiny_gguf

from quantkit.errors import ChatFormatError, ContextFullError, OutputError, QuantkitError
from quantkit.run import batch, file_lock
from quantkit.run.batch import Prompt, answer_prompts, read_prompts
from quantkit.run.session import ChatModel
from quantkit.run.settings import Settings
from quantkit.system.progress import Reporter
from tests.support.patience import PATIENCE, wait_for

ROOT = Path(__file__).parents[2]


@pytest.fixture
def model(tmp_path: Path) -> Iterator[ChatModel]:
    with ChatModel.load(write_tiny_gguf(tmp_path / "tiny.gguf"), threads=1) as model:
        yield model


def prompts(*texts: str) -> list[Prompt]:
    return [Prompt(n, {"prompt": text}, [{"role": "user", "content": text}]) for n, text in enumerate(texts, 1)]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def hidden(folder: Path) -> list[Path]:
    return sorted(folder.glob(".*"))


def test_a_text_file_is_a_prompt_a_line(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeff你好\r\n\n  two\u2028halves \n".encode())
    plain = read_prompts(path, None)
    assert [(p.line, p.given) for p in plain] == [(1, {"prompt": "你好"}), (3, {"prompt": "two\u2028halves"})]
    assert plain[0].messages == [{"role": "user", "content": "你好"}]
    assert read_prompts(path, "Be brief.")[0].messages[0] == {"role": "system", "content": "Be brief."}


def test_a_jsonl_file(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    user, answer = {"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}
    system = {"role": "system", "content": "own"}
    given = [{"id": 7, "prompt": " a\nb "}, {"messages": [user, answer, user]}, {"messages": [system, user]}]
    path.write_text("\n".join(map(json.dumps, given)), encoding="utf-8")
    read = read_prompts(path, "package's")
    assert [p.given for p in read] == given
    default = {"role": "system", "content": "package's"}
    assert [p.messages for p in read] == [
        [default, {"role": "user", "content": " a\nb "}],
        [default, user, answer, user],
        [system, user],
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("hello", "not valid JSON"),
        ('{"prompt": "a", "x": NaN}', "not valid JSON"),
        ('{"prompt": "a", "x": [1e999]}', "not valid JSON"),
        ('"hello"', "must be an object"),
        ("{}", "either"),
        ('{"prompt": "a", "messages": []}', "either"),
        ('{"prompt": 3}', "must be a string"),
        ('{"prompt": "a", "answer": "b"}', 'the key "answer" is reserved for the output'),
        ('{"prompt": "\\ud800"}', "not valid Unicode"),
        ('{"messages": []}', "last message must have the role 'user'"),
        ('{"messages": [{"role": "assistant", "content": "a"}]}', "message 1 must have the role 'user'"),
    ],
)
def test_lines_that_are_no_prompts(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(f'{{"prompt": "a"}}\n\n{line}\n', encoding="utf-8")
    with pytest.raises(QuantkitError) as info:
        read_prompts(path, None)
    assert f"{path} line 3" in str(info.value)
    assert message in str(info.value)


@pytest.mark.parametrize(("content", "message"), [(b" \n\n", "no prompt"), (b"\xff\xfe", "not UTF-8")])
def test_files_that_are_no_prompts(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes(content)
    with pytest.raises(QuantkitError, match=message):
        read_prompts(path, None)
    with pytest.raises(QuantkitError, match="cannot be read"):
        read_prompts(tmp_path, None)


def test_each_prompt_is_a_conversation_of_its_own(model: ChatModel, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    summary = answer_prompts(model, GREEDY, prompts("hello", "你好"), out)
    first, second = lines(out)
    assert first | {"stats": None} == {
        "line": 1,
        "prompt": "hello",
        "answer": ANSWER,
        "stop_reason": "end_of_turn",
        "stats": None,
    }
    assert second["prompt"] == "你好"
    assert second["stats"]["prompt_tokens"] == len(model.prompt_tokens([{"role": "user", "content": "你好"}]))
    assert first["stats"]["generated_tokens"] == len(ANSWER.encode())
    assert (summary.answers, summary.resumed, summary.stop_reasons) == (2, 0, {"end_of_turn": 2})
    assert summary.generated_tokens == 2 * len(ANSWER.encode())
    assert hidden(tmp_path) == []


@pytest.mark.parametrize(
    ("settings", "reason", "answer"),
    [
        (Settings({"temperature": 0.0}, max_tokens=2), "length", "Hi"),
        (Settings({"temperature": 0.0}, stops=("🙂",)), "stop_text", "Hi "),
    ],
)
def test_stop_reasons(model: ChatModel, tmp_path: Path, settings: Settings, reason: str, answer: str) -> None:
    answer_prompts(model, settings, prompts("hello"), tmp_path / "out.jsonl")
    (line,) = lines(tmp_path / "out.jsonl")
    assert (line["stop_reason"], line["answer"]) == (reason, answer)


def test_an_answer_that_fills_the_context(tmp_path: Path) -> None:
    with ChatModel.load(write_tiny_gguf(tmp_path / "t.gguf", Tiny(stop="")), n_ctx=40, threads=1) as model:
        answer_prompts(model, GREEDY, prompts("hello"), tmp_path / "out.jsonl")
    assert lines(tmp_path / "out.jsonl")[0]["stop_reason"] == "context_full"


def test_prompts_that_do_not_fit_are_named_before_the_first_answer(tmp_path: Path) -> None:
    with ChatModel.load(write_tiny_gguf(tmp_path / "t.gguf"), n_ctx=50, threads=1) as model:
        with pytest.raises(ContextFullError, match=r"holds 50 tokens, too few for these prompts: line 2 \(\d+") as e:
            answer_prompts(model, GREEDY, prompts("a", "b1 " * 50, "c"), tmp_path / "out.jsonl")
        assert "num_ctx=" in e.value.hint
        assert model.last_stats is None
    assert not (tmp_path / "out.jsonl").exists()


def test_a_prompt_that_the_template_refuses_is_named(tmp_path: Path) -> None:
    template = "{% if messages|length > 1 %}{{ raise_exception('too many') }}{% endif %}" + LLAMA_3
    with ChatModel.load(write_tiny_gguf(tmp_path / "t.gguf", Tiny(template=template)), threads=1) as model:
        asked = [*prompts("a"), Prompt(2, {}, [{"role": "system", "content": "s"}, *prompts("b")[0].messages])]
        with pytest.raises(ChatFormatError, match=r"line 2: .*too many"):
            answer_prompts(model, GREEDY, asked, tmp_path / "out.jsonl")


def test_an_existing_output(model: ChatModel, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text("old", encoding="utf-8")
    with pytest.raises(OutputError, match="already exists"):
        answer_prompts(model, GREEDY, prompts("a"), out)
    assert out.read_text(encoding="utf-8") == "old"
    answer_prompts(model, GREEDY, prompts("a"), out, overwrite=True)
    assert len(lines(out)) == 1
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(out)
    for other in (tmp_path, tmp_path / "fifo", tmp_path / "link"):
        with pytest.raises(OutputError, match="is a folder, a symbolic link or a special file"):
            answer_prompts(model, GREEDY, prompts("a"), other, overwrite=True)
    assert (tmp_path / "fifo").is_fifo()
    with pytest.raises(OutputError, match="cannot be written"):
        answer_prompts(model, GREEDY, prompts("a"), tmp_path / "none" / "out.jsonl")


@pytest.fixture
def stopped(model: ChatModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a run over "a", "b", "c" leaves that was stopped in its third answer."""
    real = batch.stream_answer
    asked: list[str] = []

    def stream(model: ChatModel, messages: list[dict[str, str]], settings: Settings, **options: Any) -> Iterator[str]:
        asked.append(messages[-1]["content"])
        if len(asked) == 3:
            raise KeyboardInterrupt
        return real(model, messages, settings, **options)

    reporter = Reporter()
    with monkeypatch.context() as patch:
        patch.setattr(batch, "stream_answer", stream)
        with pytest.raises(KeyboardInterrupt):
            answer_prompts(model, GREEDY, prompts("a", "b", "c"), tmp_path / "out.jsonl", reporter=reporter)
    (partial,) = hidden(tmp_path)
    assert reporter.notes == [f"2 of 3 answers are kept in {partial}; run the same command again to continue"]
    assert not (tmp_path / "out.jsonl").exists()
    return partial


@pytest.mark.parametrize("half", [b'{"line": 3, "ans', b"3\n", b"[" * 5000 + b"\n"])
def test_a_stopped_run_goes_on(model: ChatModel, tmp_path: Path, stopped: Path, half: bytes) -> None:
    before = stopped.read_bytes()
    with open(stopped, "ab") as file:
        file.write(half)  # as if it had been killed, or edited
    reporter = Reporter()
    summary = answer_prompts(model, GREEDY, prompts("a", "b", "c"), tmp_path / "out.jsonl", reporter=reporter)
    assert (summary.answers, summary.resumed, summary.generated_tokens) == (3, 2, len(ANSWER.encode()))
    assert reporter.notes == ["continuing an earlier run: 2 of 3 answers are done"]
    assert (tmp_path / "out.jsonl").read_bytes().startswith(before)
    assert [line["prompt"] for line in lines(tmp_path / "out.jsonl")] == ["a", "b", "c"]
    assert hidden(tmp_path) == []


@pytest.mark.parametrize("other", ["prompts", "settings"])
def test_another_job_does_not_go_on_with_it(model: ChatModel, tmp_path: Path, stopped: Path, other: str) -> None:
    asked = prompts("a", "b", "d" if other == "prompts" else "c")
    settings = Settings({"temperature": 0.0}, max_tokens=99) if other == "settings" else GREEDY
    assert answer_prompts(model, settings, asked, tmp_path / "out.jsonl").resumed == 0
    assert hidden(tmp_path) == [stopped]


def test_a_second_run_of_the_same_job_is_refused(
    model: ChatModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, real = tmp_path / "out.jsonl", batch.stream_answer
    refused: list[OutputError] = []

    def stream(model: ChatModel, messages: list[dict[str, str]], settings: Settings, **options: Any) -> Iterator[str]:
        with pytest.raises(OutputError, match="another run is writing this file") as info:
            answer_prompts(model, GREEDY, prompts("a", "b"), out)
        refused.append(info.value)
        return real(model, messages, settings, **options)

    monkeypatch.setattr(batch, "stream_answer", stream)
    assert answer_prompts(model, GREEDY, prompts("a", "b"), out).answers == 2
    assert len(refused) == 2
    assert len(lines(out)) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="Windows moves no open file")
def test_a_run_that_comes_when_another_has_just_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    partial, out = tmp_path / "partial", tmp_path / "out"
    partial.write_bytes(b"answers")

    def lock(file: object) -> None:
        partial.replace(out)

    monkeypatch.setattr(file_lock, "_lock", lock)
    with pytest.raises(OutputError, match="another run"), file_lock.claimed(partial):
        pass
    assert out.read_bytes() == b"answers"


def test_a_run_without_an_answer_leaves_nothing(
    model: ChatModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stream(*args: object, **options: object) -> Iterator[str]:
        raise QuantkitError("broken")

    monkeypatch.setattr(batch, "stream_answer", stream)
    with pytest.raises(QuantkitError, match="broken"):
        answer_prompts(model, GREEDY, prompts("a"), tmp_path / "out.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.gguf"]


# -- the command -----------------------------------------------------------------------------------------------------


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-W", "error", "-m", "quantkit", "chat", *map(str, arguments), "--param", "temperature=0"]


def test_the_command(tmp_path: Path) -> None:
    model, data, out = write_tiny_gguf(tmp_path / "tiny.gguf"), tmp_path / "p.txt", tmp_path / "out.jsonl"
    data.write_text("你好\nhello\n", encoding="utf-8")
    arguments = command(model, "--system", "x", "--data-file", data, "--predictions-file", out)
    done = subprocess.run(arguments, capture_output=True, cwd=ROOT, check=True, text=True, encoding="utf-8")
    assert done.stdout.startswith(f"{out}  2 answers, {2 * len(ANSWER.encode())} tokens")
    assert done.stderr == ""
    assert [line["answer"] for line in lines(out)] == [ANSWER, ANSWER]
    done = subprocess.run([*arguments, "--json", "--overwrite"], capture_output=True, cwd=ROOT, check=True)
    summary = json.loads(done.stdout)
    assert summary.pop("seconds") > 0
    assert summary == {
        "schema": 1,
        "file": str(out),
        "answers": 2,
        "resumed": 0,
        "generated_tokens": 2 * len(ANSWER.encode()),
        "stop_reasons": {"end_of_turn": 2},
    }
    done = subprocess.run(arguments, capture_output=True, cwd=ROOT, check=False)
    assert done.returncode == 1
    assert b"--overwrite" in done.stderr
    arguments = command(model, "--data-file", data, "--predictions-file", data, "--overwrite")
    done = subprocess.run(arguments, capture_output=True, cwd=ROOT, check=False)
    assert done.returncode == 2
    assert data.read_text(encoding="utf-8") == "你好\nhello\n"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_ctrl_c_keeps_what_was_answered(tmp_path: Path) -> None:
    # Answers are long, so that there is time to stop between the first and the last.
    model = write_tiny_gguf(tmp_path / "tiny.gguf", Tiny(stop="<|done|>", context=8192))
    data, out = tmp_path / "p.txt", tmp_path / "out.jsonl"
    data.write_text("".join(f"question {n}\n" for n in range(50)), encoding="utf-8")
    arguments = command(model, "--data-file", data, "--predictions-file", out, "--param", "num_predict=500")
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, cwd=ROOT, env={**os.environ}) as process:
        (kept,) = wait_for(lambda: [path for path in hidden(tmp_path) if b"\n" in path.read_bytes()], process)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert b"run the same command again to continue" in errors
    assert b"Traceback" not in errors
    assert 1 <= len(lines(kept)) < 50
    assert not out.exists()


@pytest.mark.parametrize(("temperature", "seed", "reused"), [(0.0, None, False), (1.0, 3, False), (1.0, None, True)])
def test_what_is_not_random_is_evaluated_from_the_beginning(
    model: ChatModel, tmp_path: Path, temperature: float, seed: int | None, reused: bool
) -> None:
    """A run that was stopped and goes on has other answers before each of its own."""
    settings = Settings({"temperature": temperature, "seed": seed}, max_tokens=2)
    model.answer([{"role": "user", "content": "a"}], max_tokens=1)
    answer_prompts(model, settings, prompts("a"), tmp_path / "out.jsonl")
    assert model.last_stats is not None
    assert (model.last_stats.reused_tokens > 0) == reused
