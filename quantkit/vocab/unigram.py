"""Refuses Unigram tokenizers, which llama.cpp runs only for T5 and its encoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantkit.errors import VocabularyError

UNIGRAM_HINT = "run it with transformers, or build a model that was trained with a BPE tokenizer"


def refuse_unigram(tokenizer: Mapping[str, Any], where: str) -> None:
    """Refuse a tokenizer.json with a Unigram model.

    Args:
        tokenizer: the content of tokenizer.json.
        where: its path, for the error.

    Raises:
        VocabularyError: it is one; no file saved otherwise would help.
    """
    if (tokenizer.get("model") or {}).get("type") == "Unigram":
        raise VocabularyError(
            f"{where}: Unigram tokenizers are not supported: llama.cpp has them only for T5, and merges the pieces of "
            "every other model as in BPE, which gives other tokens",
            hint=UNIGRAM_HINT,
        )
