"""What llama.cpp knows of a tokenizer by the model's name alone.

Phi-3's special tokens take in the blanks and line ends behind them; its template writes a line end behind each, which
must vanish. A GGUF file has no place for such a flag: llama.cpp sets it where ``general.name`` has "phi-3" in it. A
fine-tuned model by any other name would be prompted with tokens that it was never trained on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from quantkit.files.json_file import read_json
from quantkit.vocab.files import read_tokenizer_config

_ARCHITECTURE = "phi3"
_WORDS = ("phi-3", "phi3")


def known_name(name: str, architecture: str, tokenizer: Path) -> str:
    """*name*, with the word added that llama.cpp needs to find in it.

    Args:
        name: for ``general.name``.
        architecture: GGUF name.
        tokenizer: folder of the tokenizer that counts.
    """
    if architecture != _ARCHITECTURE or any(word in name.lower() for word in _WORDS):
        return name
    return f"{name} ({_WORDS[0]})" if any(map(_takes_in_behind, _added_tokens(tokenizer))) else name


def _added_tokens(folder: Path) -> list[Any]:
    path = folder / "tokenizer.json"
    if path.is_file():
        return list(read_json(path).get("added_tokens") or ())
    return list((read_tokenizer_config(folder).get("added_tokens_decoder") or {}).values())


def _takes_in_behind(token: Any) -> bool:
    # Phi-4's take in what is before them too, which llama.cpp cannot do for any name.
    return isinstance(token, dict) and bool(token.get("rstrip")) and not token.get("lstrip")
