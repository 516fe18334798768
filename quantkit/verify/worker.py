"""The process that checks one GGUF file, from inside; :mod:`quantkit.verify.process` starts it.

It is the only entry point of all checks that load libllama, and does nothing else: this module decides what must be
imported first, or never.
"""

from __future__ import annotations

from typing import Any

from quantkit.ggml.llama import begin
from quantkit.system.child_process import answer_module, tell
from quantkit.verify.one_file import check_one_file
from quantkit.verify.process import Request


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """Answer a :class:`~quantkit.verify.process.Request`, in JSON values."""
    return check_one_file(Request.from_json(question), step=lambda: tell(1)).to_json()


if __name__ == "__main__":
    begin()
    answer_module(answer)
