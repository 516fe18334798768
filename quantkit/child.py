"""Python modules of ours in processes of their own: a question as JSON in, an answer as JSON out.

The child imports from where this process does, never from the current folder: that may be a model's, and nothing from
a model folder is executed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any


class ChildError(Exception):
    """The child ended badly.

    Attributes:
        how: ``signal SIGABRT`` or ``exit code 1``.
        output: the last of its stderr.
    """

    def __init__(self, how: str, output: str) -> None:
        super().__init__(f"{how}: {output}")
        self.how, self.output = how, output


def run_module(module: str, arguments: Sequence[str] = ()) -> subprocess.CompletedProcess[bytes]:
    """Run ``python -m module`` to its end and catch its output."""
    return _run(module, arguments, b"")


def ask_module(module: str, question: dict[str, Any]) -> Any:
    """Send *question* to ``python -m module`` and return its answer.

    Raises:
        ChildError: it crashed or failed.
    """
    done = _run(module, (), json.dumps(question).encode())
    if done.returncode == 0:
        return json.loads(done.stdout)
    code = done.returncode
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    raise ChildError(how, done.stderr.decode(errors="replace").strip()[-2000:])


def _run(module: str, arguments: Sequence[str], stdin: bytes) -> subprocess.CompletedProcess[bytes]:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "GGML_NO_BACKTRACE": "1",  # on an assertion llama.cpp would start a debugger
    }
    command = [sys.executable, "-P", "-m", module, *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, check=False, env=environment)
