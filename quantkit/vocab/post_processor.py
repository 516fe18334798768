"""The special tokens that a tokenizer's post-processor adds around texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quantkit.errors import VocabularyError

# The kinds of special token that SpecialVocab of llama.cpp's gguf-py looks for.
KINDS = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


@dataclass(frozen=True)
class PostProcessor:
    """Special tokens by use.

    Attributes:
        named: text of each kind of special token; if tokenizer_config.json names none, the one that is added.
        added: by kind, whether it is added, if the post-processor says so.
    """

    named: Mapping[str, str]
    added: Mapping[str, bool]


def read_around(tokenizer: Mapping[str, Any], tokenizer_config: Mapping[str, Any]) -> PostProcessor:
    """Read what is added around texts, with the rules of ``SpecialVocab`` in llama.cpp's gguf-py.

    Args:
        tokenizer: tokenizer.json; empty if there is none.
        tokenizer_config: tokenizer_config.json.

    Raises:
        VocabularyError: llama.cpp cannot add the same tokens, or they contradict tokenizer_config.json.
    """
    texts = ((kind, token_text(tokenizer_config.get(f"{kind}_token"))) for kind in KINDS)
    named = {kind: text for kind, text in texts if text}
    added: dict[str, bool] = {}
    if tokenizer and tokenizer_config:
        for kind, other in (("bos", "cls"), ("eos", "sep")):
            if other in named:
                named.setdefault(kind, named[other])
    post = tokenizer.get("post_processor") or {}
    steps: Sequence[Mapping[str, Any]] = post.get("processors", [post] if post else [])
    for step in steps:
        if step.get("type") == "ByteLevel":
            added.setdefault("bos", False)
            added.setdefault("eos", False)
        elif step.get("type") == "TemplateProcessing":
            _read_template(step, named, added, bool(tokenizer_config))
        else:
            raise VocabularyError(
                f"tokenizer.json: the post-processor {step.get('type')!r} is not supported",
                hint="supported are ByteLevel and TemplateProcessing",
            )
    return PostProcessor(named, added)


def token_text(entry: Any) -> str | None:
    """The text of a token in tokenizer_config.json, which is a string or an object with ``content``."""
    if isinstance(entry, Mapping):
        entry = entry.get("content")
    return entry if isinstance(entry, str) else None


def _read_template(step: Mapping[str, Any], named: dict[str, str], added: dict[str, bool], learns: bool) -> None:
    single, pair = step.get("single") or [], step.get("pair") or []
    first, last = (_special(piece) for piece in (single[0], single[-1])) if len(single) > 1 else (None, None)
    if len(single) > 1 + (first is not None) + (last is not None):
        raise VocabularyError(
            f"tokenizer.json adds {len(single) - 1} tokens around texts; llama.cpp can add one before and one after",
            hint="GGUF cannot express this post-processor: use the tokenizer that was saved with the model",
        )
    for kind, special in (("bos", first), ("eos", last)):
        if special is None:
            continue
        if learns:
            named.setdefault(kind, special)
        if special != named.get(kind, special):
            raise VocabularyError(
                f"tokenizer.json adds {special!r} around texts, but tokenizer_config.json names {named[kind]!r} as "
                f"{kind}_token",
                hint="save the tokenizer again with transformers",
            )
        added[kind] = True
    # Between two texts: the pair's template without its ends.
    begin = 1 if first and pair and _special(pair[0]) == first else 0
    end = -1 if last and pair and _special(pair[-1]) == last else None
    inner = pair[begin:end]
    if len(inner) > 2 and [piece.get("Sequence", {}).get("id") for piece in (inner[0], inner[-1])] == ["A", "B"]:
        separators = {named.get("sep"), named.get("eos")} - {None}
        middle = [_special(piece) for piece in inner[1:-1]]
        added["sep"] = bool((middle[0] in separators and not last) or (len(middle) == 2 and middle[1] in separators))
        if added["sep"] and learns and "eos" in named:
            named.setdefault("sep", named["eos"])


def _special(piece: Mapping[str, Any]) -> str | None:
    text = piece.get("SpecialToken", {}).get("id")
    return text if isinstance(text, str) else None
