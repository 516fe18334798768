"""The commands of a chat: parameters, conversations in files, and what happens when the context is full."""

from __future__ import annotations

import json
import re
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from chat_loop import GREEDY, Loop, said
from tiny_gguf import ANSWER, LLAMA_3, Tiny, write_tiny_gguf

from quantkit.errors import ContextFullError, OutputError, QuantkitError
from quantkit.ollama.parameters import PARAMETERS
from quantkit.package.built import RunnablePackage
from quantkit.run.chat import CONTEXT_FULL, NO_ANSWER, opening
from quantkit.run.commands import COMMANDS
from quantkit.run.completion import readline_completer
from quantkit.run.session import ChatModel
from quantkit.run.set_command import origins
from quantkit.run.settings import ANSWERING, LOADING, Settings, chat_settings, with_parameters
from quantkit.run.transcript import Conversation, load_conversation, save_conversation

NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + LLAMA_3


@pytest.fixture
def model(tmp_path: Path) -> Iterator[ChatModel]:
    with ChatModel.load(write_tiny_gguf(tmp_path / "tiny.gguf"), threads=1) as model:
        yield model


@pytest.fixture
def loop(model: ChatModel) -> Loop:
    package = RunnablePackage(model.path, parameters={"temperature": "0"}, stops=("#",))
    given = {"top_p": "--param", "stop": "--param"}
    return Loop(model, chat_settings(model, package), origins=origins(package, model.engine.metadata, given))


def test_help_names_every_command(loop: Loop) -> None:
    shown = loop.terminal("/help")
    assert all(name in shown for name in COMMANDS)


def test_the_last_exchange_again(loop: Loop) -> None:
    loop.terminal("one", "two")
    assert "can only be the same" in loop.terminal("/retry")  # temperature 0
    loop.terminal("/regenerate")
    assert loop.conversation.turns == said("one", ANSWER, "two", ANSWER)
    assert loop.out.getvalue() == f"{ANSWER}\n" * 4
    assert loop.terminal("/edit three") == ""
    assert loop.conversation.turns == said("one", ANSWER, "three", ANSWER)
    loop.terminal('/edit """of', 'two lines"""')
    assert loop.conversation.turns == said("one", ANSWER, "of\ntwo lines", ANSWER)
    shown = loop.terminal("/undo", "/stats")
    assert "(removed the exchange that began with 'of\\ntwo lines'; 1 exchange left)" in shown
    assert "0 of" in shown
    assert loop.conversation.turns == said("one", ANSWER)
    assert "0 exchanges left" in loop.terminal("/undo")
    for command in ("/undo", "/retry", "/edit it"):
        assert "there is no exchange yet" in loop.terminal(command)
    assert "/edit needs a text" in loop.terminal("/edit")


def test_an_exchange_stays_if_there_is_no_answer_in_its_place(
    model: ChatModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    loop = Loop(model)
    loop.conversation.add("one", "stays", "thought")
    before = list(loop.conversation.turns)
    with monkeypatch.context() as patched:
        patched.setattr("quantkit.run.chat.stream_answer", interrupted)
        assert NO_ANSWER in loop.terminal("/edit another")
    assert loop.conversation.turns == before
    with pytest.raises(ContextFullError):
        loop.run_lines(["/edit " + "long " * 5000])
    assert loop.conversation.turns == before


def test_what_is_forgotten_when_the_last_exchange_goes() -> None:
    conversation = Conversation(turns=said("a", "b", "c", "d"), forgotten=4)
    conversation.drop_last()
    assert (conversation.turns, conversation.forgotten) == (said("a", "b"), 2)


def test_the_first_line(model: ChatModel) -> None:
    assert opening(model, None) == f"tiny.gguf, context of {model.n_ctx} tokens, system prompt: none"
    line = opening(model, "Be\nbrief. " * 20, ("q8_0", "f16"))
    assert line.startswith("tiny.gguf (also here: --quant q8_0, --quant f16), context")
    assert line.endswith("prompt: " + "Be brief. " * 6 + "...")


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("", []),
        ("/sy", ["/system"]),
        ("/s", ["/system", "/save", "/set", "/stats"]),
        ("ex", []),
        ("what", []),
        ("/set temp", ["temperature"]),
        ("/set temperature 0", []),
        ("/params top_k", ["top_k"]),
        ("/re", ["/reset", "/retry", "/regenerate", "/result"]),
        ("/copy c", ["code"]),
        ("/load ", ["a b.json", "c/"]),
        ("/save a", ["a b.json"]),
        ("/load a b", ["b.json"]),
        ("/load c/", ["c/d.json"]),
        ("/load .", [".hidden"]),
        ("/load {here}/c/", ["{here}/c/d.json"]),
        ("/load none/", []),
        ("/load \0/", []),
        ("/help c", []),
    ],
)
def test_tab(line: str, found: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c").mkdir()
    for name in ("a b.json", ".hidden", "c/d.json"):
        (tmp_path / name).touch()
    line, found = line.format(here=tmp_path), [one.format(here=tmp_path) for one in found]
    complete = readline_completer(lambda: line)
    word = line.rpartition(" ")[2]
    assert [complete(word, number) for number in range(len(found) + 1)] == [*found, None]


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("/sytem Be brief.", "there is no command /sytem; did you mean /system?"),
        ("/BYE", "there is no command /BYE; did you mean /bye?"),
        ("/", "there is no command /"),
        ("/reset all", "/reset takes no argument"),
        ("/save", "/save needs a file"),
    ],
)
def test_commands_that_cannot_be_meant(loop: Loop, typed: str, message: str) -> None:
    assert message in loop.terminal(typed)
    assert loop.out.getvalue() == ""
    with pytest.raises(QuantkitError) as info:
        loop.run_lines([typed])
    assert message in str(info.value)
    # With a space in front it is a question.
    loop.terminal(f" {typed}")
    assert loop.conversation.turns == said(typed, ANSWER)


def test_system(loop: Loop) -> None:
    assert loop.terminal("/system") == "(no system prompt)\n"
    assert loop.terminal("hello", "/system 你是助手。", "/system") == "你是助手。\n你是助手。\n"
    loop.terminal("again")
    assert loop.conversation.messages == [
        {"role": "system", "content": "你是助手。"},
        *said("hello", ANSWER, "again", ANSWER),
    ]
    assert loop.terminal('/system ""') == "(no system prompt)\n"
    assert loop.conversation.messages[0]["role"] == "user"


def test_a_system_prompt_that_the_template_refuses(tmp_path: Path) -> None:
    with ChatModel.load(write_tiny_gguf(tmp_path / "no.gguf", Tiny(template=NO_SYSTEM)), threads=1) as model:
        loop = Loop(model)
        assert "no system role" in loop.terminal("/system Be brief.", "hello")
        assert loop.conversation.messages == said("hello", ANSWER)
        with pytest.raises(QuantkitError, match="no system role"):
            Loop(model, system="Be brief.")


def test_reset(loop: Loop) -> None:
    loop.terminal("/system Be brief.", "hello", "/reset")
    assert loop.conversation.messages == [{"role": "system", "content": "Be brief."}]
    assert "0 of 512 tokens used, 0 exchanges" in loop.terminal("/stats")


def test_stats(loop: Loop) -> None:
    shown = loop.terminal("hello", "/stats")
    stats = loop.model.last_stats
    assert stats is not None
    used = stats.prompt_tokens + stats.generated_tokens
    assert f"{used} of 512 tokens used, 1 exchange\n" in shown
    assert f"{stats.prompt_tokens} prompt tokens" in shown
    assert f"{stats.generation_rate:.1f} tokens/s, ended: end of turn" in shown
    assert "tiny.gguf" in shown


def test_tokens_and_speed_after_each_answer(model: ChatModel) -> None:
    loop = Loop(model)
    assert loop.terminal("hello") == ""  # nobody is watching
    assert loop.terminal("/stats on").startswith("(tokens and speed follow")
    shown = loop.terminal("hello")
    stats = loop.last
    assert stats is not None
    used = stats.prompt_tokens + stats.generated_tokens
    speed = f"{stats.generated_tokens} tokens, {stats.generation_rate:.1f} tokens/s"
    assert shown == f"({speed}, context {used} of {model.n_ctx})\n"
    assert loop.terminal("/stats off", "hello").count("\n") == 1
    assert "/stats takes on or off, not 'x'" in loop.terminal("/stats x")


def test_parameters_are_shown_and_set(loop: Loop) -> None:
    def rows() -> dict[str, tuple[str, str]]:
        lines = [re.split(r" {2,}", line) for line in loop.terminal("/params").splitlines()]
        return {name: (value, origin) for name, value, origin in lines}

    def shown() -> dict[str, str]:
        return {name: value for name, (value, _) in rows().items()}

    before = shown()
    assert tuple(before) == (*ANSWERING, *LOADING)
    assert loop.terminal("/set") == loop.terminal("/params")
    first = rows()
    assert first["temperature"] == ("0", "the folder")
    assert first["top_k"] == ("40", "default")
    assert first["top_p"] == ("0.95", "--param")
    assert first["stop"] == ("'#'", "the folder and --param")
    assert first["num_ctx"] == (str(loop.model.n_ctx), "default")
    assert first["num_thread"] == ("1", "default")
    values = {"temperature": "0.2", "top_k": "30", "seed": "7", "num_predict": "3", "repeat_penalty": "1.1"}
    for name, value in values.items():
        assert loop.terminal(f"/set  {name}  {value} ") == f"{name}  {value}\n"
        assert loop.terminal(f"/params {name}={value}") == f"{name}  {value}\n"
        assert rows()[name] == (value, "/set")
    assert loop.settings.sampling == {"temperature": 0.2, "top_k": 30, "seed": 7, "repeat_penalty": 1.1}
    assert shown() == {**before, **values}
    assert loop.terminal("/set top_k") == "top_k  30\n"
    loop.terminal("hello")
    assert loop.model.last_stats is not None
    assert loop.model.last_stats.generated_tokens == 3
    loop.terminal("/set seed -1", "/set num_predict -1", *(f"/set {name} default" for name in values))
    assert shown() == before
    assert loop.settings == loop.initial


def test_a_stop_text_is_one_more(loop: Loop) -> None:
    assert loop.terminal("/set stop 🙂你", "hello") == "stop  '#'  '🙂你'\n"
    assert loop.out.getvalue() == "Hi \n"
    assert "ended: stop sequence" in loop.terminal("/stats")
    assert loop.terminal("/params").splitlines()[-4].endswith("the folder and --param and /set")
    assert loop.terminal("/set stop default") == "stop  '#'\n"
    assert loop.terminal("/set stop a=b", "/set stop= c") == "stop  '#'  'a=b'\nstop  '#'  'a=b'  'c'\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("temprature 1", "did you mean: temperature"),
        ("temprature", "did you mean: temperature"),
        ("temperature warm", "temperature must be a number, not 'warm'"),
        ("top_k 1.5", "top_k must be a whole number, not '1.5'"),
        ("repeat_penalty 0", "repeat_penalty is out of range: 0"),
        ("num_ctx 100", "restart with --param num_ctx"),
        ("num_keep 24", "num_keep only affects Ollama"),
        ("use_mmap", "use_mmap only affects Ollama"),
    ],
)
def test_parameters_are_refused_by_name(loop: Loop, text: str, message: str) -> None:
    assert message in loop.terminal(f"/set {text}")
    assert loop.settings == loop.initial


def test_every_parameter_of_a_package_has_its_place(loop: Loop) -> None:
    assert set(ANSWERING) | set(LOADING) <= set(PARAMETERS)
    for name in set(PARAMETERS) - set(ANSWERING):
        assert re.search(rf"{name} (is set when|only affects)", loop.terminal(f"/set {name}")), name


def test_large_numbers_take_no_memory(loop: Loop) -> None:
    # llama.cpp would reserve a place for each token that is looked back at.
    huge = str(2**31 - 1)
    loop.terminal("/set presence_penalty 0.1", f"/set repeat_last_n {huge}", f"/set top_k {huge}", "/set temperature 1")
    loop.terminal("/set min_p 1", "hello")
    assert loop.out.getvalue() == f"{ANSWER}\n"


def test_parameters_that_the_user_gives_go_before_the_packages() -> None:
    package = RunnablePackage(Path("x"), parameters={"temperature": "0.9", "num_keep": "24"}, stops=("#",))
    asked = with_parameters(package, [("temperature", "0.2"), ("stop", "a"), ("stop", "b")])
    assert asked.parameters == {"temperature": "0.2", "num_keep": "24"}
    assert asked.stops == ("#", "a", "b")


# -- files -----------------------------------------------------------------------------------------------------------


def test_save_and_load(loop: Loop, tmp_path: Path) -> None:
    path = tmp_path / "my chat.json"
    loop.terminal("/system 你是助手。", "你好 🙂", "again")
    assert "saved 2 exchanges" in loop.terminal(f"/save {path}")
    before = loop.conversation.messages
    assert json.loads(path.read_text(encoding="utf-8")) == {"schema": 1, "model": "tiny.gguf", "messages": before}
    if sys.platform != "win32":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir() if "json" in each.name] == [path.name]
    loop.terminal("/reset", '/system ""', "something else")
    assert "loaded 2 exchanges; system prompt: 你是助手。" in loop.terminal(f"/load {path}")
    assert loop.conversation.messages == before
    loop.terminal("on")
    # The model was given all of it.
    assert loop.model.last_stats is not None
    assert loop.model.last_stats.prompt_tokens == len(loop.model.prompt_tokens(loop.conversation.messages[:-1]))
    loop.terminal(f"/save {path}")
    assert load_conversation(path).messages == loop.conversation.messages
    save_conversation(path, Conversation(), "tiny.gguf")
    assert load_conversation(path) == Conversation()


def test_only_a_conversation_is_replaced(loop: Loop, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("important", encoding="utf-8")
    assert "already exists and is not a conversation" in loop.terminal(f"/save {path}")
    assert path.read_text(encoding="utf-8") == "important"
    assert "is not a conversation" in loop.terminal(f"/save {tmp_path}")
    assert "cannot be written" in loop.terminal(f"/save {tmp_path / 'none' / 'x.json'}")
    (tmp_path / "loop").symlink_to("loop")
    assert "cannot be written" in loop.terminal(f"/save {tmp_path / 'loop' / 'x.json'}")


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.json"
    save_conversation(path, Conversation("old"), "m")
    before = path.read_bytes()

    def full(source: str, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OutputError, match="No space left"):
        save_conversation(path, Conversation("new"), "m")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


USER, ASSISTANT = ({"role": role, "content": "x"} for role in ("user", "assistant"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ([], "an object with"),
        ({"schema": 1}, "an object with"),
        ({"messages": []}, "schema"),
        ({"schema": 2, "messages": []}, "schema"),
        ({"schema": 1, "messages": {}}, "must be a list"),
        ({"schema": 1, "messages": ["hello"]}, "message 1 must have"),
        ({"schema": 1, "messages": [{**USER, "tool_calls": []}, ASSISTANT]}, "message 1 must have"),
        ({"schema": 1, "messages": [ASSISTANT]}, "message 1 must have the role 'user'"),
        ({"schema": 1, "messages": [USER]}, "last message must have the role 'assistant'"),
        ({"schema": 1, "messages": [USER, USER]}, "message 2 must have the role 'assistant'"),
        ({"schema": 1, "messages": [USER, ASSISTANT, {"role": "system", "content": "x"}]}, "message 3"),
        ({"schema": 1, "messages": [{"role": "tool", "content": "x"}]}, "not 'tool'"),
        ({"schema": 1, "messages": [{"role": ["user"], "content": "x"}]}, "must have the role"),
        ({"schema": 1, "messages": [{"role": "user", "content": None}, ASSISTANT]}, "content of message 1"),
        ({"schema": 1, "messages": [{"role": "user", "content": "\ud800"}, ASSISTANT]}, "not valid Unicode"),
    ],
)
def test_what_is_no_conversation_is_not_loaded(loop: Loop, tmp_path: Path, content: object, message: str) -> None:
    path = tmp_path / "c.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    loop.terminal("hello")
    said_then = loop.terminal(f"/load {path}")
    assert str(path) in said_then
    assert message in said_then
    assert loop.conversation.turns == said("hello", ANSWER)


def test_files_that_cannot_be_loaded(loop: Loop, tmp_path: Path) -> None:
    assert "no such file" in loop.terminal(f"/load {tmp_path / 'none'}")
    assert "no such file" in loop.terminal(f"/load {tmp_path}")
    assert "no such file" in loop.terminal("/load ~nobody-of-this-name/x")
    for command in ("/load", "/save"):
        assert "NUL" in loop.terminal(f"{command} a\0b")
        assert "error: " in loop.terminal(f"{command} {tmp_path / ('名' * 300)}")
    (tmp_path / "b").write_bytes(b"\xff\xfe")
    assert "not valid JSON" in loop.terminal(f"/load {tmp_path / 'b'}")


# -- the context is full ---------------------------------------------------------------------------------------------


def test_the_oldest_exchanges_make_room(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    with ChatModel.load(path, n_ctx=160, threads=1) as model:
        loop = Loop(model, system="Be brief.")
        notices = loop.terminal(*(f"question {number}" for number in range(9)))
        conversation = loop.conversation
        assert loop.out.getvalue() == f"{ANSWER}\n" * 9
        gone = conversation.forgotten // 2
        assert 0 < gone < 8
        assert notices.count("the model no longer sees") >= 1
        assert sum(int(n) for n in _counts(notices)) == gone
        # What is forgotten is not lost: it is in the conversation, but not in what the model was given.
        assert len(conversation.turns) == 18
        given = [
            {"role": "system", "content": "Be brief."},
            *conversation.turns[conversation.forgotten : -1],
        ]
        stats = model.last_stats
        assert stats is not None
        assert model.engine.evaluated[: stats.prompt_tokens] == model.prompt_tokens(given)
        assert f"the model no longer sees the first {gone}" in loop.terminal("/stats")
        loop.terminal(f"/save {tmp_path / 'c.json'}")
        assert len(load_conversation(tmp_path / "c.json").turns) == 18
        # Loaded again it is too long from the start.
        assert "no longer sees" in loop.terminal(f"/load {tmp_path / 'c.json'}", "on")
        assert loop.conversation.turns[-1]["content"] == ANSWER


def _counts(notices: str) -> list[str]:
    lines = [line for line in notices.splitlines() if "no longer sees" in line]
    return [word if word.isdigit() else "1" for word in (line.split("the ")[-1].split()[0] for line in lines)]


def test_room_is_made_seldom(tmp_path: Path) -> None:
    with ChatModel.load(write_tiny_gguf(tmp_path / "tiny.gguf"), n_ctx=300, threads=1) as model:
        loop = Loop(model)
        shifts = [bool(_counts(loop.terminal(f"question {number}"))) for number in range(30)]
    first, rest = shifts.index(True), shifts[shifts.index(True) :]
    assert first >= 4
    assert 1 < sum(rest) < len(rest) // 2


def test_a_question_that_does_not_fit_is_refused_and_nothing_forgotten(tmp_path: Path) -> None:
    with ChatModel.load(write_tiny_gguf(tmp_path / "tiny.gguf"), n_ctx=100, threads=1) as model:
        loop = Loop(model)
        notices = loop.terminal("hello", "x1 " * 100, "again")
        assert "error: the question with its system prompt is" in notices
        assert "the context holds 100" in notices
        assert "--param num_ctx=" in notices
        assert loop.conversation.turns == said("hello", ANSWER, "again", ANSWER)
        assert loop.conversation.forgotten == 0
        with pytest.raises(ContextFullError):
            loop.run_lines(["x1 " * 100])


def test_an_answer_that_fills_the_context_is_said_and_the_chat_goes_on(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf", Tiny(stop=""))
    with ChatModel.load(path, n_ctx=80, threads=1) as model:
        loop = Loop(model)
        assert CONTEXT_FULL in loop.terminal("hello")
        assert "80 of 80 tokens used" in loop.terminal("/stats")
        notices = loop.terminal("more")
        assert "(the context is full: the model no longer sees the oldest exchange)" in notices
        assert len(loop.conversation.turns) == 4
        assert loop.conversation.forgotten == 2


def test_a_short_answer_needs_little_room(tmp_path: Path) -> None:
    with ChatModel.load(write_tiny_gguf(tmp_path / "tiny.gguf"), n_ctx=80, threads=1) as model:
        long = Loop(model)
        short = Loop(model, Settings(sampling=GREEDY.sampling, max_tokens=2))
        questions = ["hello there", "again and again"]
        assert "no longer sees" in long.terminal(*questions)
        assert "no longer sees" not in short.terminal(*questions)
