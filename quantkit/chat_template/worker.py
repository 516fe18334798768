"""The process that runs chat templates."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from quantkit.chat_template.answer_probe import find_answers
from quantkit.chat_template.opening import find_opening
from quantkit.chat_template.probe import describe
from quantkit.chat_template.sandbox import TextTooLongError, render, render_undated
from quantkit.chat_template.thinking import bake_thinking, find_thinking
from quantkit.errors import ChatFormatError
from quantkit.system.limited_worker import answer_lines

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


if __name__ == "__main__":
    answer_lines(answer, float(sys.argv[1]), int(sys.argv[2]))
