"""The process that checks one GGUF file, from inside; :mod:`quantkit.verify.process` starts it.

It is the one entry of all checks that load libllama, and does nothing but that: what must be imported first, or never,
is settled here.
"""

from __future__ import annotations

from typing import Any

from quantkit.system.child_process import answer_module
from quantkit.verify.one_file import check_one_file
from quantkit.verify.process import Request


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """The answer to a :class:`~quantkit.verify.process.Request`, as JSON values."""
    return check_one_file(Request.from_json(question)).to_json()


if __name__ == "__main__":
    answer_module(answer)
