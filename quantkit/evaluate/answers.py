"""Questions answered by one file, greedily, so that files can be read side by side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quantkit.run.session import ChatModel
from quantkit.system.child_process import tell


def answers(gguf: Path, question: Mapping[str, Any]) -> list[str]:
    """The answers to conversations, one after another.

    Args:
        gguf: the file.
        question: ``talks``, each a list of messages that ends with the user's; ``stops``, ``longest`` answer in tokens,
            ``n_gpu_layers`` and ``threads``.

    Raises:
        ChatFormatError: the file has no chat template, or it rejects a conversation.
        ContextFullError: a conversation does not fit into the context.
    """
    found = []
    with ChatModel.load(gguf, n_gpu_layers=question["n_gpu_layers"], threads=question["threads"]) as model:
        for talk in question["talks"]:
            found.append(model.answer(talk, max_tokens=question["longest"], stops=question["stops"]))
            tell(1)
    return found
