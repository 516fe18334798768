"""The conversation at the terminal and in a pipe, and finding what to talk to."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tiny_gguf import ANSWER, Tiny, write_tiny_gguf

from quantkit.errors import GGUFError, QuantkitError
from quantkit.run.chat import (
    CONTEXT_FULL,
    GREETING,
    HOW_TO_LEAVE,
    PROMPT,
    ChatLoop,
    Conversation,
    Settings,
    chat_settings,
    load_options,
    start_conversation,
)
from quantkit.run.options import CHAT_TEMPERATURE
from quantkit.run.package import RunnablePackage, open_all, open_package
from quantkit.run.session import ChatModel

ROOT = Path(__file__).parents[2]
GREEDY = Settings(sampling={"temperature": 0.0})


@pytest.fixture
def model(tmp_path: Path) -> Iterator[ChatModel]:
    with ChatModel.load(write_tiny_gguf(tmp_path / "tiny.gguf"), threads=1) as model:
        yield model


def loop_for(model: ChatModel, settings: Settings = GREEDY, system: str | None = None, out: io.StringIO | None = None):
    return ChatLoop(model, settings, Conversation(system=system), out=out or io.StringIO(), err=io.StringIO())


def typing(*lines: str | BaseException) -> Callable[[str], str]:
    """What input() would return or raise, in turn; Ctrl-D when there is no more."""
    rest = list(lines)

    def read(prompt: str) -> str:
        assert prompt == PROMPT
        if not rest:
            raise EOFError
        line = rest.pop(0)
        if isinstance(line, BaseException):
            raise line
        return line

    return read


def said(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def test_a_conversation_is_kept(model: ChatModel) -> None:
    loop = loop_for(model, system="Be brief.")
    loop.run_terminal(typing("hello", "", "   ", " 你好 "))
    assert loop.out.getvalue() == f"{ANSWER}\n{ANSWER}\n"
    assert loop.err.getvalue() == f"{GREETING}\n\n"
    assert loop.conversation.turns == said("hello", ANSWER, "你好", ANSWER)
    assert loop.conversation.messages[0] == {"role": "system", "content": "Be brief."}
    # What the model was given last is the whole conversation.
    assert model.engine.evaluated[: model.last_stats.prompt_tokens] == model.prompt_tokens(
        loop.conversation.messages[:-1]
    )


@pytest.mark.parametrize("leave", ["/bye", "exit", " /bye "])
def test_leaving(model: ChatModel, leave: str) -> None:
    loop = loop_for(model)
    loop.run_terminal(typing(leave, "not read any more"))
    assert loop.out.getvalue() == ""
    assert loop.conversation.turns == []


@pytest.mark.parametrize("text", ["exit strategy?", "/byebye", "/usr/bin", "Exit"])
def test_what_only_looks_like_a_command_is_a_question(model: ChatModel, text: str) -> None:
    loop = loop_for(model)
    loop.run_terminal(typing(text))
    assert loop.conversation.turns == said(text, ANSWER)


def test_ctrl_c_at_the_prompt_says_how_to_leave(model: ChatModel) -> None:
    loop = loop_for(model)
    loop.run_terminal(typing(KeyboardInterrupt(), "hello"))
    assert HOW_TO_LEAVE in loop.err.getvalue()
    assert loop.out.getvalue() == f"{ANSWER}\n"


class CtrlCAfter(io.StringIO):
    """A terminal whose user presses Ctrl-C when a text was shown."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def flush(self) -> None:
        if self.getvalue() == self._text:
            self._text = "never again"
            raise KeyboardInterrupt


def test_ctrl_c_stops_the_answer_and_keeps_what_was_said(model: ChatModel) -> None:
    loop = loop_for(model, out=CtrlCAfter("Hi"))
    loop.run_terminal(typing("hello", "and now?"))
    assert loop.out.getvalue() == f"Hi\n{ANSWER}\n"
    assert loop.conversation.turns == said("hello", "Hi", "and now?", ANSWER)


def test_ctrl_c_before_the_first_piece_forgets_the_question(model: ChatModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object, **kwargs: object) -> Iterator[str]:
        raise KeyboardInterrupt
        yield ""

    loop = loop_for(model)
    monkeypatch.setattr(model, "stream", interrupted)
    loop.run_terminal(typing("hello"))
    assert loop.conversation.turns == []


def test_ctrl_c_in_a_pipe_ends_all_of_it(model: ChatModel) -> None:
    loop = loop_for(model, out=CtrlCAfter("Hi"))
    with pytest.raises(KeyboardInterrupt):
        loop.run_lines(["hello\n", "more\n"])


def test_lines_of_a_pipe_are_turns_of_one_conversation(model: ChatModel) -> None:
    loop = loop_for(model)
    loop.run_lines(["hello\n", "\n", "again\r\n", "/bye\n", "not read\n"])
    assert loop.out.getvalue() == f"{ANSWER}\n{ANSWER}\n"
    assert loop.err.getvalue() == ""
    assert loop.conversation.turns == said("hello", ANSWER, "again", ANSWER)


def test_a_full_context_is_said_and_the_chat_goes_on(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf", Tiny(stop=""))
    with ChatModel.load(path, n_ctx=40, threads=1) as model:
        loop = loop_for(model)
        loop.run_terminal(typing("hello", "more"))
        assert CONTEXT_FULL in loop.err.getvalue()
        # With that answer there is no room for a second question; it is refused and forgotten.
        assert "error: the conversation has" in loop.err.getvalue()
        assert "hint: " in loop.err.getvalue()
        assert [turn["role"] for turn in loop.conversation.turns] == ["user", "assistant"]
        piped = loop_for(model)
        with pytest.raises(QuantkitError, match="context holds 40"):
            piped.run_lines(["hello", "more"])


def test_the_longest_answer(model: ChatModel) -> None:
    loop = loop_for(model, Settings(sampling={"temperature": 0.0}, max_tokens=2))
    loop.run_lines(["hello"])
    assert loop.out.getvalue() == "Hi\n"


def test_settings_of_a_package(model: ChatModel) -> None:
    parameters = {"temperature": "0.2", "num_predict": "9", "num_ctx": "100", "num_thread": "3", "num_gpu": "0"}
    package = RunnablePackage(model.path, parameters=parameters, stops=("###",))
    settings = chat_settings(model, package)
    assert settings == Settings(sampling={"temperature": 0.2}, max_tokens=9, stops=("###",))
    options = load_options(parameters)
    assert (options.n_ctx, options.threads, options.n_gpu_layers) == (100, 3, 0)
    assert load_options({}).n_ctx is None
    plain = chat_settings(model, RunnablePackage(model.path, parameters={"num_predict": "-1"}))
    assert plain == Settings(sampling={"temperature": CHAT_TEMPERATURE}, max_tokens=None)
    with pytest.raises(QuantkitError, match="num_ctx is 'big'"):
        load_options({"num_ctx": "big"})


def test_the_system_prompt_given_goes_before_the_packages() -> None:
    package = RunnablePackage(Path("x.gguf"), system="of the package")
    assert start_conversation(package, None).system == "of the package"
    assert start_conversation(package, "mine").system == "mine"
    assert start_conversation(package, "").messages == []


# -- what to talk to -----------------------------------------------------------------------------------------------


def write_package(folder: Path, **chat: object) -> Path:
    folder.mkdir(exist_ok=True)
    for name in ("m-q4_0.gguf", "m-q8_0.gguf"):
        write_tiny_gguf(folder / name)
    models = [{"file": "m-q4_0.gguf", "quant": "q4_0"}, {"file": "m-q8_0.gguf", "quant": "q8_0"}]
    content = {"schema": 1, "name": "m", "models": models, "chat": chat}
    (folder / "manifest.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_a_file_is_a_package_of_its_own(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "a.gguf")
    assert open_package(path) == RunnablePackage(path)


def test_a_built_folder(tmp_path: Path) -> None:
    parameters = {"temperature": "0.2", "top_k": 30, "stop": ["###"]}
    folder = write_package(tmp_path / "m", system="你是助手。", parameters=parameters, stops=["<|eot_id|>", "###"])
    package = open_package(folder)
    assert package.gguf == folder / "m-q4_0.gguf"
    assert package.system == "你是助手。"
    assert package.parameters == {"temperature": "0.2", "top_k": "30"}
    assert package.stops == ("<|eot_id|>", "###")
    assert [each.gguf.name for each in open_all(folder)] == ["m-q4_0.gguf", "m-q8_0.gguf"]


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


@pytest.mark.parametrize(
    "manifest",
    [
        "{",
        "[]",
        "{}",
        '{"schema": 2, "models": [{"file": "m.gguf"}], "chat": {}}',
        '{"schema": 1, "models": [], "chat": {}}',
        '{"schema": 1, "models": ["m.gguf"], "chat": {}}',
        '{"schema": 1, "models": [{"file": "../m.gguf"}], "chat": {}}',
        '{"schema": 1, "models": [{"file": ".."}], "chat": {}}',
        '{"schema": 1, "models": [{"file": "m.gguf"}], "chat": []}',
        '{"schema": 1, "models": [{"file": "m.gguf"}], "chat": {"system": 3}}',
        '{"schema": 1, "models": [{"file": "m.gguf"}], "chat": {"stops": "x"}}',
        '{"schema": 1, "models": [{"file": "m.gguf"}], "chat": {"parameters": []}}',
    ],
)
def test_a_broken_manifest(tmp_path: Path, manifest: str) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    write_tiny_gguf(tmp_path / "m.gguf")
    write_tiny_gguf(folder / "m.gguf")
    (folder / "manifest.json").write_text(manifest, encoding="utf-8")
    with pytest.raises(QuantkitError, match=r"manifest\.json"):
        open_package(folder)


# -- the command -----------------------------------------------------------------------------------------------------


def run_chat(*args: str, stdin: bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "quantkit", "chat", *args],
        input=stdin,
        capture_output=True,
        timeout=120,
        check=False,
        cwd=ROOT,
        # A terminal that claims to know no Unicode: prompts and answers are UTF-8 all the same.
        env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
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


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals on Windows")
def test_the_command_at_a_terminal(tmp_path: Path) -> None:
    import pty
    import select

    # Talks on until the context is full, long enough to be stopped.
    path = write_tiny_gguf(tmp_path / "tiny.gguf", Tiny(stop="<|done|>", context=8192))
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "quantkit", "chat", str(path)],
        stdin=child,
        stdout=child,
        stderr=child,
        cwd=ROOT,
        start_new_session=True,
        preexec_fn=make_controlling_terminal,
        env={**os.environ, "TERM": "dumb"},
    )
    os.close(child)
    seen = ""

    def wait_for(text: str, seconds: float = 60) -> bool:
        nonlocal seen
        while text not in seen and select.select([parent], [], [], seconds)[0]:
            seen += os.read(parent, 4096).decode(errors="replace")
        _, found, rest = seen.partition(text)
        seen = rest if found else seen
        return bool(found)

    def press(key: bytes, text: str) -> bool:
        # A key that comes while the line editor is still setting itself up is lost, as everywhere in Python.
        for _ in range(30):
            os.write(parent, key)
            if wait_for(text, 1):
                return True
        return False

    with process:
        try:
            assert wait_for(GREETING), seen
            assert wait_for(PROMPT), seen
            os.write(parent, b"hello\r")
            assert wait_for("Hi "), seen
            assert press(b"\x03", PROMPT), seen  # Ctrl-C in the answer
            assert press(b"\x03", HOW_TO_LEAVE), seen  # and at the prompt
            assert wait_for(PROMPT), seen
            os.write(parent, b"exit\r")
            assert process.wait(timeout=60) == 0
        finally:
            process.kill()
            os.close(parent)
    assert "Traceback" not in seen


def make_controlling_terminal() -> None:
    """Make the standard input the terminal of this session, so that its Ctrl-C becomes a signal."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
