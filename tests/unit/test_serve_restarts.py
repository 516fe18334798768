"""A server that is killed or crashes is started again on the same port; one that was told to end is not."""

from __future__ import annotations

import http.client
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tiny_gguf import ENDLESS, Tiny, write_tiny_gguf

from quantkit.errors import QuantkitError
from quantkit.serve import supervisor
from quantkit.serve.last_words import Found, LastWords, last_words
from quantkit.serve.supervisor import supervise
from tests.support.patience import PATIENCE, wait_for
from tests.support.served import ROOT, Server, command, running_server

pytestmark = pytest.mark.skipif(not supervisor.can_supervise(), reason="sockets cannot be handed on")
LARGE = ("numpy", "libllama", "libggml", "pydantic_core")
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="asks /proc which processes there are")


@pytest.fixture
def endless(tmp_path: Path) -> Iterator[Server]:
    """A supervised server whose answers do not end by themselves."""
    path = write_tiny_gguf(tmp_path / "endless.gguf", Tiny(stop="", context=ENDLESS))
    with running_server(tmp_path / "log.txt", path) as server:
        yield server


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]


def begun(connection: http.client.HTTPConnection) -> tuple[http.client.HTTPResponse, str]:
    """The stream of an answer that goes on and on, and the answer's id."""
    asked = {"messages": [{"role": "user", "content": "hello"}], "stream": True}
    connection.request("POST", "/v1/chat/completions", json.dumps(asked))
    response = connection.getresponse()
    return response, json.loads(response.readline().removeprefix(b"data: "))["id"]


# -- a whole server ---------------------------------------------------------------------------------------------------


@LINUX
def test_a_server_that_dies_is_started_again(endless: Server) -> None:
    """By a kill, as of a kernel without memory, and by an assertion of llama.cpp; both in the middle of an answer."""
    for restarts, number in enumerate((signal.SIGKILL, signal.SIGABRT), start=1):
        killed = endless.working
        with closing(endless.connect()) as connection:
            response, name = begun(connection)
            os.kill(killed, number)
            with pytest.raises((http.client.IncompleteRead, ConnectionError)):
                response.read()
        assert endless.chat("hello", max_tokens=1).status == 200, "who connects meanwhile waits, on the same port"
        assert endless.working != killed
        metrics = endless.request("GET", "/metrics").body.decode().splitlines()
        assert f"quantkit:restarts_total {restarts}" in metrics
        log = endless.log.read_text(encoding="utf-8").splitlines()
        (said,) = (line for line in log if name in line)
        assert said.startswith(f"warning: the server was ended by signal {number.name}")
        assert log.count("serving endless again") == restarts
    assert sum("stop with Ctrl-C" in line for line in log) == 1


@LINUX
def test_what_stops_or_kills_the_supervisor_does_so_to_the_server(endless: Server) -> None:
    """Ctrl-Z, and kill -9: also the port is free then, which the next server may want."""
    working = endless.working
    loaded, theirs = (Path(f"/proc/{pid}/maps").read_text("utf-8") for pid in (endless.process.pid, working))
    assert not [name for name in LARGE if name in loaded], "the supervisor is small, and has nothing that could crash"
    assert all(name in theirs for name in LARGE)
    os.kill(endless.process.pid, signal.SIGTSTP)
    wait_for(lambda: {state(endless.process.pid), state(working)} == {"T"}, endless.process)
    os.kill(endless.process.pid, signal.SIGCONT)
    with closing(endless.connect()) as connection:
        begun(connection)
        endless.process.kill()
        assert endless.process.stdout is not None
        assert select.select([endless.process.stdout], [], [], PATIENCE)[0], "the server is still there"
        assert endless.process.stdout.read() == "", "nobody has it open any more; and the address was printed once"
    with pytest.raises(ConnectionRefusedError):
        endless.request("GET", "/health")


@pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGKILL])
def test_one_that_was_never_ready_is_not_started_again(tmp_path: Path, number: signal.Signals) -> None:
    dies = f"import os\nif 'QUANTKIT_SUPERVISED' in os.environ: os.kill(os.getpid(), {number:d})\n"
    (tmp_path / "sitecustomize.py").write_text(dies, encoding="utf-8")
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))}
    done = subprocess.run(
        command(path, "--port", 0), cwd=ROOT, env=environment, capture_output=True, text=True,
        check=False, timeout=PATIENCE,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    error, hint = done.stderr.splitlines()
    assert error.startswith(f"error: the server was ended by signal {number.name}")
    assert error.endswith(" before it was ready")
    assert hint.startswith("hint: ")
    assert ("quantkit smoke" in hint, "num_ctx" in hint) == (number == signal.SIGABRT, number == signal.SIGKILL)


# -- its rules --------------------------------------------------------------------------------------------------------

SERVER = """
import json, os, signal, sys, time
_, file, restarts = map(int, os.environ["QUANTKIT_SUPERVISED"].split())
for number in {ignored}: signal.signal(number, signal.SIG_IGN)
said = {{"ready": time.monotonic() - {ready}, "answering": ["one", "two"], "more": 1, "scales": None}}
{begins}
os.pwrite(file, json.dumps(said).encode() + b"\\n", 0)
print(flush=True)
{ends}
"""


class Told(subprocess.Popen[bytes]):
    """A process whose parent gets a signal while it waits for it."""

    number = 0

    def wait(self, timeout: float | None = None) -> int:
        number, self.number = self.number, 0
        if number:
            os.kill(os.getpid(), number)
        return super().wait(timeout)


@pytest.fixture
def supervised(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Supervises a short program in the server's place, ready for some seconds; its code, and the log.

    The supervisor gets the signal *told*, which the program may ignore.
    """

    def run(
        ends: str, *, begins: str = "", ready: float = 0.0, told: int = 0, ignored: Sequence[int] = ()
    ) -> tuple[int, list[str]]:
        def start(
            module: str, arguments: Sequence[str], *, inherits: Sequence[int], variables: Mapping[str, str]
        ) -> subprocess.Popen[bytes]:
            assert (module, list(arguments)) == ("quantkit", ["serve", "--port", "0"])
            program = SERVER.format(ignored=ignored, ready=ready, begins=begins, ends=ends)
            words = [sys.executable, "-I", "-S", "-c", program]
            pipe = subprocess.PIPE
            server = Told(words, stdin=pipe, stdout=pipe, env=dict(variables), pass_fds=inherits)
            assert server.stdout is not None
            server.stdout.readline()
            server.number = told
            return server

        monkeypatch.setattr(supervisor, "start_successor", start)
        return supervise(("--port", "0"), listening, Path("my model.gguf"), said.append), said

    said: list[str] = []
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup has the tests ignore it
    try:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            yield run
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_servers_own_end_is_the_end(supervised: Any) -> None:
    assert supervised("raise SystemExit(3)") == (3, [])
    assert supervised("raise SystemExit(1 if restarts else os.kill(os.getpid(), 9))")[0] == 1


def test_deaths_that_follow_one_another_have_an_end(supervised: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    def wait(seconds: float) -> None:
        waited.append(seconds)
        assert len(waited) < 8, "there is no end"

    monkeypatch.setattr(time, "sleep", wait)
    with pytest.raises(QuantkitError, match=r"SIGABRT during one, two and 1 more, after 3 new starts") as error:
        supervised("os.abort()")
    assert "quantkit smoke 'my model.gguf'" in error.value.hint
    assert waited == [0.0, 1.0, 4.0]
    with pytest.raises(QuantkitError, match=r"SIGABRT, after 3 new starts"):
        supervised("os.abort()", begins="if restarts: os.abort()", ready=60.0)


def test_who_has_answered_for_a_minute_may_die_more_often(supervised: Any) -> None:
    code, said = supervised("if restarts == 7: raise SystemExit(0)\nos.abort()", ready=60.0)
    assert (code, len(said)) == (0, 7)


def test_who_was_told_to_end_is_not_started_again(supervised: Any) -> None:
    """Also where it does not know yet how to end, or fails to."""
    with pytest.raises(KeyboardInterrupt):
        supervised("time.sleep(60)", told=signal.SIGTERM)
    for number in (signal.SIGINT, signal.SIGTERM):
        assert supervised("raise SystemExit(5)", told=number, ignored=[int(number)])[0] == 5
    with pytest.raises(QuantkitError, match=r"SIGSEGV .* while it was ending"):
        supervised("os.kill(os.getpid(), 11)", told=signal.SIGHUP, ignored=[int(signal.SIGHUP)])


def test_what_a_server_leaves_to_know(tmp_path: Path) -> None:
    with (tmp_path / "words").open("w+b", buffering=0) as file:
        assert last_words(file.fileno()) == Found()
        words = LastWords(file.fileno())
        with words.answering("waits"), words.answering("a" * 500):
            assert last_words(file.fileno()) == Found(None, ("waits", "a" * 500), 0)
            words.say_ready()
        found = last_words(file.fileno())
        assert (found.answering, found.ready is None) == ((), False)
        with words.answering("1"), words.answering("2"), words.answering("3"), words.answering("4"):
            found = last_words(file.fileno())
            assert (found.answering, found.more) == (("2", "3", "4"), 1)
        words.keep_scales((0.5, 0.0))
        with words.answering("killed"):
            assert LastWords(file.fileno()).scales == (0.5, 0.0), "the next server"
        assert last_words(file.fileno()).scales == (0.5, 0.0)
        os.pwrite(file.fileno(), b"{", 0)
        os.pwrite(file.fileno(), b"\n", 1)
        assert last_words(file.fileno()) == Found()
