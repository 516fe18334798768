"""The process that renders Markdown: a regular expression cannot be interrupted from outside of its process."""

from __future__ import annotations

import sys
from typing import Any

from quantkit.serve.page.markdown import render_markdown
from quantkit.system.limited_worker import answer_lines


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """Return ``nodes`` for the ``text`` of a question, with code as text if it is ``plain``."""
    return {"nodes": render_markdown(question["text"], plain=question["plain"])}


if __name__ == "__main__":
    answer_lines(answer, float(sys.argv[1]), int(sys.argv[2]))
