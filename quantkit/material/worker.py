"""The process that reads a data file as tokens: it loads libllama, a vocabulary without weights, and never torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from quantkit.ggml.llama import begin
from quantkit.material.read_tokens import read_tokens
from quantkit.system.child_process import answer_module


def answer(question: dict[str, Any]) -> Any:
    """Answer with the tokens of the file ``data`` in the vocabulary of ``gguf``."""
    return read_tokens(Path(question["gguf"]), Path(question["data"]), question["limit"]).to_json()


if __name__ == "__main__":
    begin()
    answer_module(answer)
