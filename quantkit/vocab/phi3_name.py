"""A property of Phi-3's tokenizer that llama.cpp detects only by the model's name.

Phi-3's special tokens absorb the whitespace after them; its template writes a newline after each, which must disappear.
GGUF has no key for such a flag: llama.cpp sets it if ``general.name`` contains "phi-3". A fine-tuned model with another
name would be prompted with tokens that it was never trained on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from quantkit.vocab.files import ParsedFiles, read_tokenizer_config

_ARCHITECTURE = "phi3"
_WORDS = ("phi-3", "phi3")


def known_name(name: str, architecture: str, tokenizer: Path, parsed: ParsedFiles | None = None) -> str:
    """*name*, with the word that llama.cpp looks for added if it is needed.

    Args:
        name: the name for ``general.name``.
        architecture: GGUF name.
        tokenizer: folder of the chosen tokenizer.
        parsed: reads tokenizer.json, and keeps it for the vocabulary.
    """
    if architecture != _ARCHITECTURE or any(word in name.lower() for word in _WORDS):
        return name
    added = _added_tokens(tokenizer, parsed or ParsedFiles())
    return f"{name} ({_WORDS[0]})" if any(map(_takes_in_behind, added)) else name


def _added_tokens(folder: Path, parsed: ParsedFiles) -> list[Any]:
    path = folder / "tokenizer.json"
    if path.is_file():
        return list(parsed.read(path).get("added_tokens") or ())
    return list((read_tokenizer_config(folder).get("added_tokens_decoder") or {}).values())


def _takes_in_behind(token: Any) -> bool:
    # Phi-4's tokens also absorb whitespace before them, which llama.cpp cannot do for any name.
    return isinstance(token, dict) and bool(token.get("rstrip")) and not token.get("lstrip")
