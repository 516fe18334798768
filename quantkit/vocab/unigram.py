"""Refuses Unigram tokenizers, which llama.cpp runs only for T5 and its encoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantkit.errors import VocabularyError

_HINT = "no GGUF file can hold it: run the folder with transformers or vLLM (quantkit merge writes one for them)"


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
            hint=_HINT,
        )
