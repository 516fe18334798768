"""Pieces of tokenizer.json that several vocabularies share."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def added_token(text: str, special: bool, *, strip: str = "", normalized: bool | None = None) -> dict[str, Any]:
    """An entry of ``added_tokens`` without its id.

    Args:
        text: the token.
        special: a control token.
        strip: ``l``, ``r`` or both, where the token swallows blanks beside it.
        normalized: looked for in the normalized text; by default where the token is not special.
    """
    return {
        "content": text,
        "single_word": False,
        "lstrip": special and "l" in strip,
        "rstrip": special and "r" in strip,
        "normalized": not special if normalized is None else normalized,
        "special": special,
    }


def begin_of_text(bos: str, number: int) -> dict[str, Any]:
    """The post-processor that puts BOS before every text."""
    first, second = ({"SpecialToken": {"id": bos, "type_id": kind}} for kind in (0, 1))
    a, b = {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}
    tokens = {bos: {"id": bos, "ids": [number], "tokens": [bos]}}
    return {"type": "TemplateProcessing", "single": [first, a], "pair": [first, a, second, b], "special_tokens": tokens}


def decoder_entries(tokens: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """``added_tokens_decoder`` of tokenizer_config.json."""
    return {str(token["id"]): {k: v for k, v in token.items() if k != "id"} for token in tokens}


def write_json(path: Path, value: Any, *, indent: int | None = 1) -> None:
    """*indent*: None for a whole vocabulary, for which Python's encoder of indented JSON takes seconds."""
    path.write_text(json.dumps(value, ensure_ascii=False, indent=indent), encoding="utf-8")
