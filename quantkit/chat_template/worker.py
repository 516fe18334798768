"""The process that runs chat templates: it limits itself, then answers each line of JSON with a line of JSON.

It ends when its stdin is closed. It ignores Ctrl-C, which the parent process handles.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from quantkit.chat_template.answer_probe import find_answers
from quantkit.chat_template.opening import find_opening
from quantkit.chat_template.probe import describe
from quantkit.chat_template.sandbox import TextTooLongError, render, render_undated
from quantkit.chat_template.thinking import bake_thinking, find_thinking
from quantkit.errors import ChatFormatError

QUESTIONS: dict[str, Callable[..., Any]] = {
    "render": render,
    "render undated": render_undated,
    "answers": find_answers,
    "describe": describe,
    "opening": find_opening,
    "thinking": find_thinking,
    "bake": bake_thinking,
}


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """Answer a question ``{"do": one of QUESTIONS, ...its arguments}``.

    Returns:
        ``value``, or ``refused`` with the reason, or ``limit`` with the name of the limit that was reached.
    """
    arguments = {key: value for key, value in question.items() if key != "do"}
    try:
        found = QUESTIONS[question["do"]](**arguments)
    except ChatFormatError as error:
        return {"refused": str(error)}
    except TextTooLongError:
        return {"limit": "text"}
    except MemoryError:
        return {"limit": "memory"}
    return {"value": found if isinstance(found, str) else asdict(found)}


def main(seconds: float, memory: int) -> None:
    """Answer questions until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _limit_memory(memory)
    for line in sys.stdin.buffer:
        _limit_time(seconds)
        try:
            text = json.dumps(answer(json.loads(line)))
        except MemoryError:  # while reading the question or writing the answer
            text = json.dumps({"limit": "memory"})
        _limit_time(0)
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


def _limit_time(seconds: float) -> None:
    """Limit processor time from now on; 0 for no limit. The signal is not caught: it ends long multiplications too."""
    if sys.platform != "win32":
        signal.setitimer(signal.ITIMER_PROF, seconds)


def _limit_memory(memory: int) -> None:
    """Limit memory. Windows has no such limit and macOS ignores it; there only the time limit helps."""
    if sys.platform != "win32":
        import resource

        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_AS, (memory, memory))


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
