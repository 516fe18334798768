"""A data file as tokens, from outside: a process of its own loads libllama."""

from __future__ import annotations

from pathlib import Path

from quantkit.errors import QuantkitError
from quantkit.material.tokens import Tokens
from quantkit.system.child_process import ChildError, ask_module

_WORKER = "quantkit.material.worker"


def tokens_of(gguf: Path, data: Path, limit: int | None = None) -> Tokens:
    """The tokens of a data file in a model's vocabulary; the arguments of :func:`.read_tokens.read_tokens`.

    *data* is the user's, or :data:`quantkit.material.data_file.CALIBRATION` or ``EVALUATION``.

    Raises:
        QuantkitError: the data or the GGUF file is broken, or the chat template is missing or refuses a conversation.
    """
    try:
        return Tokens.from_json(ask_module(_WORKER, {"gguf": str(gguf), "data": str(data), "limit": limit}))
    except ChildError as error:
        raise QuantkitError(
            f"{gguf}: llama.cpp ended with {error.how} when it was asked for tokens",
            hint=error.hint(f"check the file: quantkit smoke {gguf}"),
        ) from None
