"""Which of llama.cpp's pre-tokenizers a tokenizer.json is, told from its structure.

llama.cpp splits text with regexes built into its binary, chosen by the name in ``tokenizer.ggml.pre``. Its converter
finds the name by hashing the token ids of one text, so a vocabulary with one added token is unknown to it. The name
depends on the steps before BPE alone, so here those are compared: the normalizer, the split regexes, the byte-level
step. What is not in the table is refused; a guess would tokenize almost right, which nobody notices.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quantkit.errors import VocabularyError

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@dataclass(frozen=True)
class PreTokenizer:
    """A pre-tokenizer of llama.cpp.

    Attributes:
        name: value of ``tokenizer.ggml.pre``.
        splits: the regexes, in order, each isolating its matches.
        normalizer: type of the normalizer the tokenizer has, None for none.
        whole_words: llama.cpp looks a whole word up before it merges (``ignore_merges``).
    """

    name: str
    splits: tuple[str, ...]
    normalizer: str | None
    whole_words: bool


PRE_TOKENIZERS = (
    PreTokenizer("llama-bpe", (rf"{_CONTRACTIONS}|{_LETTERS}|\p{{N}}{{1,3}}|{_REST}",), None, True),
    PreTokenizer("qwen2", (rf"{_CONTRACTIONS}|{_LETTERS}|\p{{N}}|{_REST}",), "NFC", False),
)


def recognise(tokenizer: Mapping[str, Any], where: str) -> PreTokenizer:
    """The pre-tokenizer of a parsed tokenizer.json.

    Raises:
        VocabularyError: none of the known ones; the message quotes what was found.
    """
    normalizer = (tokenizer.get("normalizer") or {}).get("type")
    splits = _splits(tokenizer.get("pre_tokenizer"))
    for known in PRE_TOKENIZERS:
        if splits == known.splits and normalizer == known.normalizer:
            return known
    found = json.dumps({"normalizer": tokenizer.get("normalizer"), "pre_tokenizer": tokenizer.get("pre_tokenizer")})
    raise VocabularyError(
        f"{where}: unknown pre-tokenizer: {found[:400]}",
        hint=f"known are {', '.join(known.name for known in PRE_TOKENIZERS)}; llama.cpp must have the splits built in",
    )


def _splits(step: Mapping[str, Any] | None) -> tuple[str, ...] | None:
    """The split regexes of ``Sequence[Split..., ByteLevel]``; None where the structure is another."""
    steps = step.get("pretokenizers", []) if step and step.get("type") == "Sequence" else [step or {}]
    if not steps:
        return None
    *splits, last = steps
    if last.get("type") != "ByteLevel" or last.get("use_regex", True) or last.get("add_prefix_space", True):
        return None
    for split in splits:
        plain = split.get("type") == "Split" and split.get("behavior") == "Isolated" and not split.get("invert")
        if not plain or "Regex" not in split.get("pattern", {}):
            return None
    return tuple(split["pattern"]["Regex"] for split in splits)
