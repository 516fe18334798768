"""A process that is asked again and again: what it has loaded for one question is there for the next."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Any

from quantkit.system.child_process import ChildError, answer_of, ended_how, start_module
from quantkit.system.temporary import temporary_root


class KeptChild:
    """``python -m module``, which answers with :func:`~quantkit.system.child_process.answer_module`.

    It is started by the first question, and again by the first after it has crashed. Not for several threads at once.
    """

    def __init__(self, module: str) -> None:
        """Start nothing yet."""
        self._module = module
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None

    def ask(self, question: dict[str, Any], told: Callable[[Any], None] = lambda said: None) -> Any:
        """Send a question and return the answer; what the child says before it is given to *told*.

        Raises:
            ChildError: the child crashed or failed.
            QuantkitError: the child refused the question.
        """
        if self._process is None:
            self._errors = tempfile.TemporaryFile(dir=temporary_root())  # noqa: SIM115  (closed with the process)
            self._process = start_module(self._module, stderr=self._errors)
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(OSError):  # it has crashed, which the end of its output says
            process.stdin.write(json.dumps(question).encode() + b"\n")
            process.stdin.flush()
        for line in process.stdout:
            said = json.loads(line)
            if "told" not in said:
                return answer_of(said)
            told(said["told"])
        code, errors = process.wait(), self._errors
        assert errors is not None
        errors.seek(0)
        stderr = errors.read().decode(errors="replace")
        self.close()
        raise ChildError(ended_how(code), stderr)

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        errors, self._errors = self._errors, None
        if process is not None:
            process.kill()
            with suppress(OSError), process:  # closes the pipes and waits
                pass
        if errors is not None:
            errors.close()
