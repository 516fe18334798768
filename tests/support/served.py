"""A running ``quantkit serve``, and plain HTTP to it."""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.support.patience import PATIENCE

ROOT = Path(__file__).parents[2]

# Its last words are heard: by itself a server that ends waits for two seconds, which a busy machine may take for them.
PATIENT = f"""
from quantkit.ggml.llama import begin
begin()
import quantkit.serve.server
quantkit.serve.server._PATIENCE = {PATIENCE:.0f}
"""


@dataclass(frozen=True)
class Answer:
    """What a request got."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body."""
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error object in it."""
        return dict(self.json["error"])

    @property
    def events(self) -> list[Any]:
        """The events of a stream; the last, which is no JSON, as text."""
        parts = self.body.decode().split("\n\n")
        assert parts.pop() == ""
        assert all(part.startswith("data: ") for part in parts)
        data = [part.removeprefix("data: ") for part in parts]
        return [text if text == "[DONE]" else json.loads(text) for text in data]


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        url: where it is.
        process: its process.
        log: what it has on stderr.
    """

    url: str
    process: subprocess.Popen[str]
    log: Path

    @property
    def working(self) -> int:
        """The process that answers, inside of a supervisor; on Linux."""
        return descendants(self.process.pid)[0]

    def connect(self) -> http.client.HTTPConnection:
        """A connection of its own."""
        return http.client.HTTPConnection(str(urlsplit(self.url).netloc), timeout=PATIENCE)

    def request(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
        """Send a request, its body as JSON unless it is bytes, and read the whole answer."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body)
        with contextlib.closing(self.connect()) as connection:
            connection.request(method, path, data, {"content-type": "application/json", **(headers or {})})
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())

    def chat(self, *messages: str | Mapping[str, Any], **parameters: Any) -> Answer:
        """Ask for an answer; texts are turns of user and assistant."""
        turns = [
            {"role": ("user", "assistant")[index % 2], "content": message} if isinstance(message, str) else message
            for index, message in enumerate(messages)
        ]
        return self.request("POST", "/v1/chat/completions", {"messages": turns, **parameters})

    def end(self, number: int) -> tuple[int, str]:
        """Send it a signal; its exit code and what it said on stderr."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE), self.log.read_text(encoding="utf-8")


def descendants(pid: int) -> list[int]:
    """The processes that a process has started, and theirs, each after its parent; those of Linux."""
    tasks = Path("/proc", str(pid), "task").glob("*/children")
    children = [int(child) for task in tasks for child in task.read_text(encoding="ascii").split()]
    return [found for child in children for found in (child, *descendants(child))]


def command(*arguments: object) -> list[str]:
    """The command line of ``quantkit serve``."""
    return [sys.executable, "-m", "quantkit", "serve", *map(str, arguments)]


def patched(script: str, *arguments: object) -> list[str]:
    """The command line of ``quantkit serve`` after a script in its process, which is the only one."""
    run = f"{script}\nfrom quantkit.cli.main import main\nimport sys\nsys.exit(main(sys.argv[1:]))"
    return [sys.executable, "-c", run, "serve", "--no-restart", *map(str, arguments)]


@contextlib.contextmanager
def running_server(log: Path, *arguments: object, script: str = "") -> Iterator[Server]:
    """Start ``quantkit serve`` on any free port, after *script* in its process, and end it."""
    line = patched(script, *arguments, "--port", 0) if script else command(*arguments, "--port", 0)
    with (
        log.open("w", encoding="utf-8") as err,
        subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=err, text=True) as process,
    ):
        assert process.stdout is not None
        try:
            url = process.stdout.readline().strip()
            assert url, log.read_text(encoding="utf-8")
            yield Server(url, process, log)
        finally:
            process.kill()
