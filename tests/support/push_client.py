"""``quantkit`` again and again in one process that talks to a hub on loopback, without the client's waits.

Run as ``python -m tests.support.push_client``: each line of stdin is a JSON object with ``args`` and ``env``, each line
of stdout the object with ``code``, ``out``, ``err`` and ``waits``, the seconds that the client would have waited.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any, Self

from tests.support.hub_client import REPOSITORY, hub_environment


class PushClient:
    """The process; a context manager.

    Attributes:
        log: what it writes to stderr itself, such as lines of libraries that took hold of stderr before a run.
    """

    def __init__(self, endpoint: str, home: Path) -> None:
        self._endpoint, self._home = endpoint, home
        self.log = home.with_suffix(".log")

    def __enter__(self) -> Self:
        self._stderr = self.log.open("w", encoding="utf-8")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.push_client"],
            cwd=REPOSITORY,
            env=hub_environment(self._endpoint, self._home),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            encoding="utf-8",
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()
        self._stderr.close()

    def run(self, *args: object, **env: str) -> SimpleNamespace:
        """Run ``quantkit ARGS`` with further variables of the environment."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps({"args": list(map(str, args)), "env": env}), file=self._process.stdin, flush=True)
        return SimpleNamespace(**json.loads(self._process.stdout.readline()))


def _without_waits() -> list[float]:
    """Replace the client's sleep; returns the list of what it would have slept."""
    from huggingface_hub.utils import _http

    waits: list[float] = []
    _http.time = SimpleNamespace(**{**vars(time), "sleep": waits.append})  # type: ignore[attr-defined]
    return waits


def main() -> None:
    from quantkit.cli.main import main as quantkit

    waits = _without_waits()
    answers = sys.stdout
    for line in sys.stdin:
        asked: dict[str, Any] = json.loads(line)
        out, err = io.StringIO(), io.StringIO()
        waits.clear()
        before = dict(os.environ)
        os.environ.update(asked["env"])
        code: object = None
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                quantkit(asked["args"])
            except SystemExit as left:
                code = left.code
        os.environ.clear()
        os.environ.update(before)
        print(
            json.dumps({"code": code, "out": out.getvalue(), "err": err.getvalue(), "waits": waits}),
            file=answers,
            flush=True,
        )


if __name__ == "__main__":
    main()
