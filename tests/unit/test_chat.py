"""The conversation at the terminal and in a pipe, and finding what to talk to."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from chat_loop import CtrlCAfter, Loop, said
from tiny_gguf import ANSWER, Tiny, write_tiny_gguf

from quantkit.errors import ChatFormatError, GGUFError, QuantizationError, QuantkitError
from quantkit.jobs.package import package
from quantkit.package.built import RunnablePackage, open_all, open_package
from quantkit.run.chat import GREETING, HOW_TO_LEAVE, LIMIT_REACHED, NO_ANSWER
from quantkit.run.options import CHAT_TEMPERATURE
from quantkit.run.prompt_input import QUOTES, read_entry, reader_of
from quantkit.run.screen import Screen
from quantkit.run.session import ChatModel
from quantkit.run.settings import LoadOptions, Settings, chat_settings, load_options
from quantkit.system.terminal_text import harmless, one_line
from tests.support.manifests import put_manifest
from tests.support.patience import PATIENCE

ROOT = Path(__file__).parents[2]


@pytest.fixture
def model(tmp_path: Path) -> Iterator[ChatModel]:
    with ChatModel.load(write_tiny_gguf(tmp_path / "tiny.gguf"), threads=1) as model:
        yield model


def test_a_conversation_is_kept(model: ChatModel) -> None:
    loop = Loop(model, system="Be brief.")
    loop.terminal("hello", "", "   ", " 你好 ")
    assert loop.out.getvalue() == f"{ANSWER}\n{ANSWER}\n"
    assert loop.err.getvalue() == f"{GREETING}\n\n"
    assert loop.conversation.turns == said("hello", ANSWER, "你好", ANSWER)
    assert loop.conversation.messages[0] == {"role": "system", "content": "Be brief."}
    # What the model was given last is the whole conversation.
    assert model.engine.evaluated[: model.last_stats.prompt_tokens] == model.prompt_tokens(
        loop.conversation.messages[:-1]
    )


@pytest.mark.parametrize("leave", ["/bye", "exit", "/bye ", "exit  ", "quit", "/quit", "/exit "])
def test_leaving(model: ChatModel, leave: str) -> None:
    loop = Loop(model)
    loop.terminal(leave, "not read any more")
    assert loop.out.getvalue() == ""
    assert loop.conversation.turns == []


@pytest.mark.parametrize(
    "text", ["exit strategy?", "/usr/bin", "Exit", "quit it", "/usr\nis a path", "// a comment", "a /bye"]
)
def test_what_only_looks_like_a_command_is_a_question(model: ChatModel, text: str) -> None:
    loop = Loop(model)
    loop.terminal(text)
    assert loop.conversation.turns == said(text, ANSWER)


def test_ctrl_c_at_the_prompt_says_how_to_leave(model: ChatModel) -> None:
    loop = Loop(model)
    loop.terminal(KeyboardInterrupt(), "hello")
    assert HOW_TO_LEAVE in loop.err.getvalue()
    assert loop.out.getvalue() == f"{ANSWER}\n"


def test_ctrl_c_stops_the_answer_and_keeps_what_was_said(model: ChatModel) -> None:
    loop = Loop(model, out=CtrlCAfter("Hi"))
    loop.terminal("hello", "and now?")
    assert loop.out.getvalue() == f"Hi\n{ANSWER}\n"
    assert loop.conversation.turns == said("hello", "Hi", "and now?", ANSWER)


def test_ctrl_c_before_the_first_piece_forgets_the_question(model: ChatModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object, **kwargs: object) -> Iterator[str]:
        raise KeyboardInterrupt
        yield ""

    loop = Loop(model)
    monkeypatch.setattr("quantkit.run.chat.stream_answer", interrupted)
    assert loop.terminal("hello") == f"{NO_ANSWER}\n"
    assert loop.conversation.turns == []


def test_ctrl_c_in_a_pipe_ends_all_of_it(model: ChatModel) -> None:
    loop = Loop(model, out=CtrlCAfter("Hi"))
    with pytest.raises(KeyboardInterrupt):
        loop.run_lines(["hello\n", "more\n"])


def test_lines_of_a_pipe_are_turns_of_one_conversation(model: ChatModel) -> None:
    loop = Loop(model)
    loop.run_lines(["hello\n", "\n", "again\r\n", "/bye\n", "not read\n"])
    assert loop.out.getvalue() == f"{ANSWER}\n{ANSWER}\n"
    assert loop.err.getvalue() == ""
    assert loop.conversation.turns == said("hello", ANSWER, "again", ANSWER)


def test_the_longest_answer(model: ChatModel) -> None:
    loop = Loop(model, Settings(sampling={"temperature": 0.0}, max_tokens=2))
    loop.run_lines(["hello"])
    assert loop.out.getvalue() == "Hi\n"
    assert loop.err.getvalue() == f"{LIMIT_REACHED}\n"


def test_texts_of_several_lines() -> None:
    def entries(text: str) -> list[tuple[str | None, str]]:
        read = reader_of(io.StringIO(text))
        found = []
        with suppress(EOFError):
            while True:
                entry = read_entry(read)
                found.append((entry.command, entry.text))
        return found

    block = f'{QUOTES}\n  def f():\n\n    return "x"\n{QUOTES}\nnext\n'
    assert entries(block) == [(None, '  def f():\n\n    return "x"'), (None, "next")]
    assert entries(f"{QUOTES}one{QUOTES}\n {QUOTES}two\nlines{QUOTES}  \n") == [(None, "one"), (None, "two\nlines")]
    # A quoted text is a question, whatever it looks like; and a command can be given one.
    assert entries(f"{QUOTES}/bye{QUOTES}\n") == [(None, "/bye")]
    assert entries(f"/system {QUOTES}Be\nbrief.{QUOTES}\n") == [("/system", "Be\nbrief.")]
    assert entries(f"what is {QUOTES}?\n") == [(None, f"what is {QUOTES}?")]
    # What a terminal gives for a paste.
    assert entries("a\n")[0] == (None, "a")
    assert read_entry(lambda prompt: "two\nlines").text == "two\nlines"


def test_a_text_without_an_end_is_not_sent(model: ChatModel) -> None:
    loop = Loop(model)
    assert "is not closed, so it was not sent" in loop.terminal(f"{QUOTES}hello")
    assert "is not closed" not in loop.terminal(f"{QUOTES}hello", KeyboardInterrupt())
    with pytest.raises(QuantkitError, match="is not closed"):
        loop.run_lines([f"{QUOTES}hello\n"])
    assert loop.conversation.turns == []


def test_an_error_ends_a_pipe_and_no_chat(model: ChatModel) -> None:
    loop = Loop(model)
    assert loop.terminal("\udcff", "hello").startswith("error: the question is not valid Unicode")
    assert loop.conversation.turns == said("hello", ANSWER)
    with pytest.raises(QuantkitError, match="not valid Unicode"):
        loop.run_lines(["\udcff\n"])


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_no_answer_commands_a_terminal() -> None:
    hostile = "\x1b]0;title\x07你🙂\tb\r\n\x9b2J\x7f"
    assert harmless(hostile) == "␛]0;title␇你🙂\tb\n\N{REPLACEMENT CHARACTER}2J␡"
    for out, shown in ((io.StringIO(), hostile), (Tty(), harmless(hostile))):
        Screen(out, io.StringIO()).answer(hostile)
        assert out.getvalue() == shown
    for direction in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u2028\u2029\ud800":
        assert harmless(f"a{direction}b") == "a\N{REPLACEMENT CHARACTER}b"
    family = "👨\u200d👩\u200d👧 你好 עברית ≥ é"
    assert harmless(family) == family
    assert one_line("a\nb\x1b") == "a b␛"
    err = Tty()
    Screen(io.StringIO(), err).say(hostile)
    assert "\x1b]" not in err.getvalue()


def test_nothing_is_drawn_in_a_pipe() -> None:
    err = io.StringIO()
    screen = Screen(io.StringIO(), err)
    with screen.waiting("loading"):
        screen.say("[bold]:smile:" + 200 * "x")
    assert err.getvalue() == "[bold]:smile:" + 200 * "x" + "\n"


def test_a_model_that_nobody_can_talk_to(tmp_path: Path) -> None:
    with (
        ChatModel.load(write_tiny_gguf(tmp_path / "tiny.gguf", Tiny(template=None)), threads=1) as model,
        pytest.raises(ChatFormatError, match="no chat template") as info,
    ):
        Loop(model)
    for name in ("llama-3", "chatml", "gemma", "alpaca"):
        assert name in info.value.hint


def test_settings_of_a_package(model: ChatModel) -> None:
    parameters = {"temperature": "0.2", "num_predict": "9", "num_ctx": "100", "num_thread": "3", "num_gpu": "0"}
    package = RunnablePackage(model.path, parameters=parameters, stops=("###",))
    settings = chat_settings(model, package)
    assert settings == Settings(sampling={"temperature": 0.2}, max_tokens=9, stops=("###",))
    options = load_options(parameters)
    assert (options.n_ctx, options.threads, options.n_gpu_layers) == (100, 3, 0)
    assert load_options(parameters, -1).n_gpu_layers == -1
    assert load_options({}) == LoadOptions(n_ctx=None, threads=None, n_gpu_layers=-1)
    assert load_options({"num_thread": "0"}).threads is None
    plain = chat_settings(model, RunnablePackage(model.path, parameters={"num_predict": "-1"}))
    assert plain == Settings(sampling={"temperature": CHAT_TEMPERATURE}, max_tokens=None)
    with pytest.raises(QuantkitError, match="num_thread is 513; it must be from 1 to 512"):
        ChatModel.load(model.path, threads=513)
    with pytest.raises(QuantkitError, match="num_ctx must be a whole number, not 'big'"):
        load_options({"num_ctx": "big"})


def test_sampling_of_a_file_that_is_no_number(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf", Tiny(extra={"general.sampling.top_k": 2.5}))
    with ChatModel.load(path, threads=1) as model:
        with pytest.raises(QuantkitError, match=r"general\.sampling\.top_k of the file") as info:
            chat_settings(model, RunnablePackage(path))
        assert "--param top_k=VALUE" in info.value.hint
        chat_settings(model, RunnablePackage(path, parameters={"top_k": "3"}))


# -- what to talk to -----------------------------------------------------------------------------------------------


def write_package(folder: Path, **chat: Any) -> Path:
    folder.mkdir(exist_ok=True)
    names = ("m-q4_0.gguf", "m-q8_0.gguf")
    for name in names:
        write_tiny_gguf(folder / name)
    return put_manifest(folder, *names, **chat)


def test_a_file_is_a_package_of_its_own(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "a.gguf")
    assert open_package(path) == RunnablePackage(path)


def test_a_built_folder(tmp_path: Path) -> None:
    parameters = {"temperature": "0.2", "stop": ("###", "User:"), "top_k": "30"}
    folder = write_package(tmp_path / "m", system="你是助手。", parameters=parameters, stops=("<|eot_id|>", "###"))
    package = open_package(folder)
    assert package.gguf == folder / "m-q4_0.gguf"
    assert package.system == "你是助手。"
    assert package.parameters == {"temperature": "0.2", "top_k": "30"}
    assert package.stops == ("<|eot_id|>", "###", "User:")
    assert [each.gguf.name for each in open_all(folder)] == ["m-q4_0.gguf", "m-q8_0.gguf"]


def test_a_type_of_a_built_folder(tmp_path: Path) -> None:
    folder = write_package(tmp_path / "m")
    assert open_package(folder).others == ("q8_0",)
    package = open_package(folder, "Q8_0")
    assert (package.gguf.name, package.quant, package.others) == ("m-q8_0.gguf", "q8_0", ("q4_0",))
    with pytest.raises(QuantizationError, match="no file of the type q5_0") as info:
        open_package(folder, "q5_0")
    assert info.value.hint == "use one of: q4_0, q8_0"
    with pytest.raises(QuantizationError, match="unknown quantization type 'q80'") as info:
        open_package(folder, "q80")
    assert info.value.hint == "did you mean q8_0?"
    with pytest.raises(QuantizationError, match="--quant chooses one in a folder"):
        open_package(write_tiny_gguf(tmp_path / "a.gguf"), "q8_0")


def test_the_users_stop_texts_are_in_a_package(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    made = open_package(
        package((path,), tmp_path / "m", parameters=(("stop", "###"), ("stop", "User:"), ("top_k", "3")))
    )
    assert made.stops == ("<|eot_id|>", "###", "User:")
    assert made.parameters == {"top_k": "3"}


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(GGUFError, match="no such file or folder"):
        open_package(tmp_path / "none")


def test_a_folder_without_a_manifest_names_the_files_in_it(tmp_path: Path) -> None:
    with pytest.raises(QuantkitError, match=r"no manifest\.json") as info:
        open_package(tmp_path)
    assert "quantkit build" in info.value.hint
    (tmp_path / "b.gguf").touch()
    with pytest.raises(QuantkitError, match=r"no manifest\.json") as info:
        open_package(tmp_path)
    assert str(tmp_path / "b.gguf") in info.value.hint


def test_a_missing_model_file(tmp_path: Path) -> None:
    folder = write_package(tmp_path / "m")
    (folder / "m-q4_0.gguf").unlink()
    with pytest.raises(QuantkitError, match=r"m-q4_0\.gguf: manifest\.json lists it, but it is not there") as info:
        open_package(folder)
    assert "m-q8_0.gguf" in info.value.hint


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"schema": 1, "models": ' + 100_000 * "["])
def test_a_manifest_that_is_none(tmp_path: Path, text: str) -> None:
    folder = write_package(tmp_path / "m")
    (folder / "manifest.json").write_text(text, encoding="utf-8")
    with pytest.raises(QuantkitError, match=r"manifest\.json") as info:
        open_package(folder)
    assert "build it again; to chat, give one of the files: " in info.value.hint


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"schema": 2}, '"schema" is 2, and this version reads schema 1'),
        ({"models": []}, '"models" is empty'),
        ({"models": ["m-q4_0.gguf"]}, '"models[0]" must be an object'),
        ({"models": [{"file": "../m.gguf"}]}, '"models[0].file" must be the name of a file'),
        ({"models": [{"file": ".."}]}, '"models[0].file" must be the name of a file'),
        ({"chat": []}, '"chat" must be an object'),
        ({"chat": {"system": 3}}, '"chat.system" must be a text'),
        ({"chat": {"stops": "x"}}, '"chat.stops" must be a list of texts'),
        ({"chat": {"parameters": []}}, '"chat.parameters" must be an object'),
        ({"chat": {"parameters": {"stop": "x"}}}, '"chat.parameters.stop" must be a list of texts'),
        ({"chat": {"parameters": {"top_k": [1]}}}, '"chat.parameters.top_k" must be a number'),
    ],
)
def test_a_broken_manifest(tmp_path: Path, change: dict[str, Any], why: str) -> None:
    path = write_package(tmp_path / "m") / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    for key, value in change.items():
        manifest[key] = {**manifest[key], **value} if isinstance(value, dict) else value
    path.write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(QuantkitError, match=re.escape(f"manifest.json: {why}")):
        open_package(tmp_path / "m")


# -- the command -----------------------------------------------------------------------------------------------------


def run_chat(*args: str, stdin: bytes, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "quantkit", "chat", *args],
        input=stdin,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
        cwd=ROOT,
        # A terminal that claims to know no Unicode: prompts and answers are UTF-8 all the same.
        env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", **environment},
    )


def test_the_command_in_a_pipe(tmp_path: Path) -> None:
    folder = write_package(tmp_path / "m", system="你好", parameters={"temperature": "0"})
    result = run_chat(str(folder), stdin="你好\n再见\n".encode())
    assert result.stdout.decode() == f"{ANSWER}\n{ANSWER}\n"
    assert result.returncode == 0
    assert b"Traceback" not in result.stderr


def test_the_command_survives_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf", Tiny(extra={"general.sampling.temp": 0.0}))
    result = run_chat(str(path), stdin=b"\xff\xfe\x00\n")
    assert (result.stdout.decode(), result.returncode) == (f"{ANSWER}\n", 0)


@pytest.mark.parametrize("template", [None, "{{ broken"])
def test_the_command_says_what_is_wrong(tmp_path: Path, template: str | None) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf", Tiny(template=template))
    result = run_chat(str(path), stdin=b"hello\n")
    assert result.returncode == 1
    assert result.stdout == b""
    assert b"error: " in result.stderr
    assert b"chat template" in result.stderr
    assert b"Traceback" not in result.stderr


def test_the_command_takes_parameters(tmp_path: Path) -> None:
    folder = write_package(tmp_path / "m", parameters={"temperature": "0.9"}, stops=("###",))
    result = run_chat(
        str(folder),
        "--param",
        "temperature=0",
        "--param",
        "num_ctx=77",
        "--param",
        "stop=i",
        stdin=b"hi\n/set\n/stats\n",
    )
    assert result.stdout.decode() == "H\n"
    shown = {line.split(None, 1)[0]: line.split(None, 1)[1].split() for line in result.stderr.decode().splitlines()}
    assert shown["temperature"] == ["0", "--param"]
    assert shown["stop"] == ["'###'", "'i'", "the", "folder", "and", "--param"]
    assert shown["num_ctx"] == ["77", "--param"]
    assert "of 77 tokens" in " ".join(shown["context"])


@pytest.mark.parametrize(
    ("param", "message"),
    [
        ("temprature=1", "temprature"),
        ("top_k=many", "top_k must be a whole number"),
        ("num_keep=24", "num_keep only affects Ollama"),
    ],
)
def test_the_command_refuses_parameters_by_name(tmp_path: Path, param: str, message: str) -> None:
    result = run_chat(str(write_package(tmp_path / "m")), "--param", param, stdin=b"hi\n")
    assert (result.returncode, result.stdout) == (1, b"")
    assert message in result.stderr.decode()
    assert "hint: " in result.stderr.decode()


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
def test_the_command_without_an_input(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "quantkit", "chat", str(write_tiny_gguf(tmp_path / "tiny.gguf"))]
    done = subprocess.run(["sh", "-c", '"$@" <&-', "sh", *command], capture_output=True, check=False, cwd=ROOT)
    assert done.returncode == 1
    assert done.stderr.startswith(b"error: standard input or output is closed")
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("options", [["--json"], ["--overwrite"], ["--data-file", "x"], ["--predictions-file", "x"]])
def test_options_that_go_together(tmp_path: Path, options: list[str]) -> None:
    result = run_chat(str(tmp_path), *options, stdin=b"")
    assert result.returncode == 2
    assert "--data-file" in result.stderr.decode()


def test_the_command_imports_no_torch(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    code = (
        "import sys\nfrom quantkit.cli.main import main\n"
        "try:\n    main(['chat', sys.argv[1]])\n"
        "except SystemExit as leaving:\n    assert leaving.code == 0\n"
        "assert 'llama_cpp' in sys.modules\nassert 'torch' not in sys.modules\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code, str(path)], input=b"hi\n", env=environment, check=False)
    assert done.returncode == 0
