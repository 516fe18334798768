"""The chat at a terminal: keys, line editing, history."""

from __future__ import annotations

import io
import json
import signal
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_gguf import ANSWER, Tiny, write_tiny_gguf

from quantkit.errors import OutputError
from quantkit.run.chat import GREETING, HOW_TO_LEAVE
from quantkit.run.history import KEPT, History, history_path
from quantkit.run.prompt_input import MORE, PROMPT, terminal_reader
from quantkit.system.clipboard import osc52

if sys.platform == "win32":
    pytest.skip("there are no pseudo-terminals on Windows", allow_module_level=True)

from tests.support.terminal import Terminal, quantkit

ROOT = Path(__file__).parents[2]
UP = b"\x1b[A"


@pytest.fixture
def state(tmp_path: Path) -> dict[str, str]:
    return {"XDG_STATE_HOME": str(tmp_path / "state"), "TERM": "xterm", "LC_ALL": "C.UTF-8", "PYTHONPATH": str(ROOT)}


@pytest.fixture
def chat(tmp_path: Path, state: dict[str, str]) -> Iterator[Terminal]:
    # Talks on until the context is full, long enough to be stopped.
    path = write_tiny_gguf(tmp_path / "tiny.gguf", Tiny(stop="<|done|>", context=8192))
    with Terminal(quantkit("chat", str(path), "--param", "temperature=0"), environment=state) as terminal:
        assert terminal.comes(GREETING), terminal.shown
        assert terminal.comes(PROMPT), terminal.shown
        yield terminal


def open_chat(path: Path, environment: dict[str, str], *options: str) -> Terminal:
    return Terminal(quantkit("chat", str(path), *options), environment=environment)


def say(terminal: Terminal, text: str, answer: str = ANSWER) -> None:
    terminal.type(text + "\r")
    assert terminal.comes(answer), terminal.shown
    assert terminal.comes(PROMPT), terminal.shown


def leave(terminal: Terminal) -> None:
    terminal.type("/bye\r")
    assert terminal.ends() == 0
    assert "Traceback" not in terminal.shown


def test_ctrl_c(chat: Terminal) -> None:
    chat.type("hello\r")
    assert chat.comes("Hi "), chat.shown
    chat.type("\x03")  # in the answer
    assert chat.comes(PROMPT), chat.shown
    assert chat.waits()
    chat.type("\x03")  # and at the prompt
    assert chat.comes(HOW_TO_LEAVE), chat.shown
    assert chat.comes(PROMPT), chat.shown
    assert chat.waits()
    chat.type("/stats\r")
    assert chat.comes("1 exchange"), chat.shown
    assert chat.comes("ended: interrupted"), chat.shown
    leave(chat)


def test_a_request_to_end_ends_it(chat: Terminal) -> None:
    assert chat.waits()
    chat.process.send_signal(signal.SIGTERM)
    assert chat.ends() == 130
    assert "Traceback" not in chat.shown


def test_lines_edited_pasted_and_remembered(tmp_path: Path, state: dict[str, str]) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    with open_chat(path, state) as chat:
        assert chat.comes(PROMPT), chat.shown
        assert "loading" in chat.shown
        say(chat, "你好\x1b[D您")  # the arrow goes back over a whole character
        chat.type('"""two\r')
        assert chat.comes(MORE), chat.shown
        say(chat, 'lines"""')
        say(chat, "\x1b[200~pasted\nlines 🙂\x1b[201~")  # one text, not two
        say(chat, f"/save {tmp_path / 'c.json'}", "3 exchanges")
        say(chat, "/stat\t", "3 exchanges")
        say(chat, f"/load {tmp_path}/c.js\t", "loaded 3 exchanges")
        leave(chat)
    messages = json.loads((tmp_path / "c.json").read_text(encoding="utf-8"))["messages"]
    assert [m["content"] for m in messages[::2]] == ["你您好", "two\nlines", "pasted\nlines 🙂"]
    assert [m["content"] for m in messages[1::2]] == [ANSWER] * 3

    kept = Path(state["XDG_STATE_HOME"]) / "quantkit" / "chat_history.jsonl"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
    before = kept.read_bytes()

    with open_chat(path, state) as chat:
        assert chat.comes(PROMPT), chat.shown
        chat.type(UP * 5)  # over /bye, /load, /stats and /save
        say(chat, "!")
        say(chat, f"/save {tmp_path / 'd.json'}", "1 exchange")
        leave(chat)
    again = json.loads((tmp_path / "d.json").read_text(encoding="utf-8"))["messages"]
    assert again[0]["content"] == "pasted\nlines 🙂!"
    assert kept.read_bytes().startswith(before)

    after = kept.read_bytes()
    with open_chat(path, {**state, "QUANTKIT_NO_HISTORY": "1"}) as chat:
        assert chat.comes(PROMPT), chat.shown
        chat.type(UP * 2)
        say(chat, "private")
        assert str(tmp_path) not in chat.shown  # of the last /save
        leave(chat)
    assert kept.read_bytes() == after


def test_a_terminal_that_changes_under_the_line(tmp_path: Path, state: dict[str, str]) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    # No clipboard but the terminal's.
    nowhere = {"DISPLAY": "", "WAYLAND_DISPLAY": "", "TMUX": "", "SSH_CONNECTION": "1"}
    with open_chat(path, {**state, **nowhere}) as chat:
        assert chat.comes(PROMPT), chat.shown
        say(chat, "hello there", "tokens/s, context ")
        say(chat, "/copy", osc52(ANSWER))
        chat.type("\x12lo th")  # Ctrl-R
        assert chat.comes("(reverse-i-search)"), chat.shown
        chat.type("\x05 you")  # to the end of the line that was found
        assert chat.comes("hello there"), chat.shown
        assert chat.comes(" you"), chat.shown
        assert chat.waits()
        chat.type("\x1a")  # Ctrl-Z: nobody could let it go on here, so it does so at once
        assert chat.comes(f"{PROMPT}hello there you"), chat.shown

        def resize(columns: int, told: str, sent: str) -> None:
            assert chat.waits()
            chat.resize(columns)
            assert chat.comes("\x1b[6n"), chat.shown
            chat.type(told)
            assert chat.comes(sent), chat.shown
            assert chat.comes(f"{PROMPT}hello"), chat.shown

        # Of 19 columns, 12 are in the first row, if the terminal wraps them. A key comes before its answer.
        resize(12, "x\x1b[30;8R", "\r\x1b[1A\x1b[J")
        chat.type("y")  # and is read with the next one
        assert chat.comes("xy"), chat.shown
        resize(200, "\x1b[29;22R", "\r\x1b[J\r\n")  # in one row again
        resize(12, "\x1b[29;12R", "\r\x1b[J")  # cut off, by a terminal that does not wrap
        resize(200, "", "\r\x1b[1A\x1b[J\r\n")  # no answer: as readline believes
        chat.type("\r")
        assert chat.comes(ANSWER), chat.shown
        say(chat, f"/save {tmp_path / 'c.json'}", "2 exchanges")
        leave(chat)
    messages = json.loads((tmp_path / "c.json").read_text(encoding="utf-8"))["messages"]
    assert messages[2]["content"] == "hello there youxy"


def test_a_width_that_readline_has_taken_itself(state: dict[str, str]) -> None:
    # It does while it is busy with a key, and shows the line; whoever erased that would leave nothing.
    program = """
import ctypes, fcntl, readline, struct, termios
from signal import SIG_BLOCK, SIG_UNBLOCK, SIGWINCH, pthread_sigmask
from quantkit.run.line_editor import LineEditor

def complete(text: str, state: int) -> None:
    pthread_sigmask(SIG_BLOCK, {SIGWINCH})
    fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 100, 0, 0))
    ctypes.CDLL(readline.__file__).rl_resize_terminal()
    pthread_sigmask(SIG_UNBLOCK, {SIGWINCH})

readline.set_completer(complete)
readline.parse_and_bind("tab: complete")
print("it read", LineEditor().read(">>> "))
"""
    with Terminal([sys.executable, "-c", program], environment=state) as terminal:
        assert terminal.comes(PROMPT), terminal.shown
        terminal.type("hello\t")
        assert terminal.comes(f"{PROMPT}hello"), terminal.shown
        terminal.type("!\r")
        assert terminal.comes("it read hello!"), terminal.shown
        assert terminal.ends() == 0
    assert "\x1b[6n" not in terminal.shown


@pytest.mark.parametrize(
    ("text", "width", "place"),
    [("", 5, (0, 0)), ("abcd", 5, (0, 4)), ("abcde", 5, (1, 0)), ("ab\ncdefgh", 5, (2, 1)), ("a您b您您", 5, (1, 4)),
     ("abcd您", 5, (1, 2)), ("é🙂", 5, (0, 3))],
)  # fmt: skip
def test_where_the_cursor_is(text: str, width: int, place: tuple[int, int]) -> None:
    from quantkit.run.line_editor import cursor

    assert cursor(text, width) == place


def test_prompts_are_not_among_the_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\n"))
    monkeypatch.setattr(sys, "stdout", out)  # sent to a file
    monkeypatch.setattr(sys, "stderr", err)
    history = History(None)
    read, remember = terminal_reader(history)
    assert read(PROMPT) == "hello"
    with pytest.raises(EOFError):
        read(PROMPT)
    assert (out.getvalue(), err.getvalue()) == ("", PROMPT * 2)
    remember("hello")
    assert history.entries == ["hello"]


def test_lines_of_a_history_that_are_no_entries_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "history"
    path.write_text("\n".join(['"a"', "[" * 5000, "9" * 5000, "3", '"b', '"c"', ""]), encoding="utf-8")
    assert History(path).entries == ["a", "c"]


def test_a_history_that_cannot_be_kept_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="chat history cannot be saved") as info:
        History(tmp_path / "file" / "history")
    assert "--no-history" in info.value.hint
    history = History(tmp_path / "folder")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="chat history cannot be saved"):
        history.add("one")
    history.add("two")
    assert history.entries == ["one", "two"]


def test_what_is_worth_keeping(tmp_path: Path) -> None:
    path = tmp_path / "a" / "history"
    history = History(path)
    for text in ("one", "one", "", "  ", "two\nlines", "one"):
        history.add(text)
    assert History(path).entries == ["one", "two\nlines", "one"]
    with open(path, "a", encoding="utf-8") as file:
        file.write('"half')  # of a program that was killed
    assert History(path).entries == ["one", "two\nlines", "one"]


def test_the_history_does_not_grow_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "history"
    path.write_text("".join(f'"{i}"\n' for i in range(2 * KEPT)), encoding="utf-8")
    assert History(path).entries[0] == str(KEPT)
    assert len(path.read_text(encoding="utf-8").splitlines()) == KEPT


def test_where_the_history_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert history_path() == tmp_path / "quantkit" / "chat_history.jsonl"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert history_path() == tmp_path / "home" / ".local" / "state" / "quantkit" / "chat_history.jsonl"

    def nobody(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", nobody)
    assert history_path() is None
