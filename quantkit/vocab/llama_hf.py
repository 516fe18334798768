"""The GGUF vocabulary from a tokenizer.json with a SentencePiece vocabulary (BPE with byte fallback).

llama.cpp merges such a vocabulary by score, tokenizer.json by the order of its merges. llama.cpp's converter writes the
same score for all tokens, so llama.cpp merges from left to right; here a token's score is the position of its merge,
which gives the same ids if the merges come from a SentencePiece model. This is checked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence, Set
from typing import Any

from quantkit.errors import VocabularyError
from quantkit.gguf.kv import boolean
from quantkit.vocab.bpe import check_added_ids
from quantkit.vocab.files import (
    BYTE,
    CONTROL,
    NORMAL,
    UNUSED,
    USER_DEFINED,
    Content,
    TokenizerFiles,
    blank_notes,
    flag_notes,
    padding,
    padding_notes,
    spm_entries,
)
from quantkit.vocab.special import special_texts
from quantkit.vocab.unigram import refuse_unigram

_BYTE_TEXT = re.compile(r"<0x[0-9A-Fa-f]{2}>")
# The score of a token that is never merged.
ADDED_SCORE = -1000.0
_MODEL = "copy the model's tokenizer.model into the folder, or use a tokenizer.json that was converted from one"


def read_llama_hf(files: TokenizerFiles) -> Content | None:
    """The vocabulary in a tokenizer.json with byte fallback; None if there is no such file.

    Raises:
        VocabularyError: llama.cpp would not reproduce the tokenizer.
    """
    where = str(files.path("tokenizer.json"))
    if not has_byte_fallback(files, where):
        return None
    model = files.tokenizer["model"]
    vocabulary, added = model["vocab"], files.tokenizer.get("added_tokens") or ()
    prefix = puts_space_first(files.tokenizer, where)
    texts, types = texts_and_types(files, where)
    scores = [ADDED_SCORE] * files.rows
    # A text that is looked up before merging is never merged, whatever the list says.
    apart = {text for text, kind in zip(texts, types, strict=True) if kind in (CONTROL, USER_DEFINED)}
    merges = [(a, b) for a, b in _merge_pairs(model["merges"], where) if apart.isdisjoint((a, b, a + b))]
    for text, score in merge_scores(vocabulary.keys() - apart, merges, where).items():
        scores[vocabulary[text]] = score
    notes = [
        "tokenizer.json has no scores: the order of its merges is used instead",
        *blank_notes(files.tokenizer),
        *flag_notes({token["content"]: token for token in added}),
        *padding_notes(files.rows, types.count(UNUSED)),
    ]
    entries = [*spm_entries(texts, scores, types)]
    if not prefix:
        entries.append(boolean("tokenizer.ggml.add_space_prefix", False))
    return Content(tuple(entries), tuple(texts), tuple(notes))


def has_byte_fallback(files: TokenizerFiles, where: str) -> bool:
    """Whether tokenizer.json has a SentencePiece vocabulary: BPE over characters, with bytes for unknown ones.

    Raises:
        VocabularyError: it has a unigram model.
    """
    refuse_unigram(files.tokenizer, where)
    model, decoder = files.tokenizer.get("model") or {}, files.tokenizer.get("decoder") or {}
    return bool(model.get("type") == "BPE" and model.get("byte_fallback") and decoder.get("type") == "Sequence")


def texts_and_types(files: TokenizerFiles, where: str) -> tuple[list[str], list[int]]:
    """The text and the type of every id, and padding for rows of the embedding without a token.

    Raises:
        VocabularyError: the ids are not those that transformers gives, or the embedding has too few rows.
    """
    vocabulary, added = files.tokenizer["model"]["vocab"], files.tokenizer.get("added_tokens") or ()
    _check_ids(vocabulary, added, files.rows, where)
    texts = [padding(number) for number in range(files.rows)]
    types = [UNUSED] * files.rows
    special = special_texts(files.tokenizer_config)
    for text, number in vocabulary.items():
        texts[number] = text
        types[number] = BYTE if _BYTE_TEXT.fullmatch(text) else CONTROL if text in special else NORMAL
    for token in added:
        text, number = token["content"], token["id"]
        if token.get("special") or text in special:
            types[number] = CONTROL
        elif number >= len(vocabulary) or "▁" not in text:
            types[number] = USER_DEFINED
        # otherwise Gemma's runs of spaces, which are merged from a text's spaces like other pieces
        texts[number] = text
    return texts, types


def check_options(model: Mapping[str, Any], where: str) -> None:
    """Refuse options of BPE that llama.cpp does not have.

    Raises:
        VocabularyError: one is on.
    """
    for option in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges"):
        if model.get(option):
            raise VocabularyError(f"{where}: BPE option {option}={model[option]!r} is not supported by llama.cpp")


def merge_scores(vocabulary: Set[str], merges: Sequence[tuple[str, str]], where: str) -> dict[str, float]:
    """Scores with which llama.cpp merges in the order of *merges*: 0 for the first merged token, then -1, ...

    Raises:
        VocabularyError: scores cannot express the order: the merges of one token are not consecutive, or two tokens
            that form a third are not merged.
    """
    last = {left + right: place for place, (left, right) in enumerate(merges)}
    scores: dict[str, float] = {}
    together: list[str] = []
    until = -1
    for place, (left, right) in enumerate(merges):
        text = left + right
        if place > until:
            _check_group(together, where)
            together = []
        if text not in scores:
            together.append(text)
            # Tokens merged between two merges of one token have the same score.
            scores[text] = scores[together[0]] if len(together) > 1 else -float(len(scores))
        until = max(until, last[text])
    _check_group(together, where)
    known, made = set(merges), {text for text in vocabulary if len(text) == 1} | scores.keys()
    for text in scores:
        for at in range(1, len(text)):
            pair = text[:at], text[at:]
            if pair not in known and pair[0] in made and pair[1] in made:
                raise VocabularyError(
                    f"{where}: {pair[0]!r} and {pair[1]!r} form {text!r}, but no merge joins them; llama.cpp would",
                    hint=_MODEL,
                )
    return scores


def _check_group(texts: Sequence[str], where: str) -> None:
    """Check that tokens with the same score are runs of one character, like Llama's runs of spaces."""
    if len(texts) > 1 and len(set("".join(texts))) > 1:
        raise VocabularyError(
            f"{where}: the merges of {texts[0]!r} and {texts[1]!r} are mixed; llama.cpp needs each token's in a row",
            hint=_MODEL,
        )


def _merge_pairs(merges: Any, where: str) -> list[tuple[str, str]]:
    try:
        pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in merges)
        return [(str(left), str(right)) for left, right in pairs]
    except (TypeError, ValueError):
        raise VocabularyError(f"{where}: merges have an unknown format") from None


def _check_ids(vocabulary: Mapping[str, int], added: Sequence[Mapping[str, Any]], rows: int, where: str) -> None:
    if sorted(vocabulary.values()) != list(range(len(vocabulary))):
        raise VocabularyError(f"{where}: the ids of the vocabulary are not 0 to {len(vocabulary) - 1}")
    check_added_ids(vocabulary, added, where)
    highest = max([len(vocabulary) - 1, *(token["id"] for token in added)])
    if highest >= rows:
        raise VocabularyError(
            f"{where}: token id {highest} has no row in the embedding, which has {rows} rows",
            hint="the tokenizer belongs to a model with a larger vocabulary: use the one saved with these weights",
        )
    # Gemma's tab, a byte token in tokenizer.model, may be a plain token here; llama.cpp finds that too.
    tokens = (f"<0x{byte:02X}>" in vocabulary or (byte < 128 and chr(byte) in vocabulary) for byte in range(256))
    if not all(tokens):
        raise VocabularyError(f"{where}: there are no byte tokens, which llama.cpp needs for unknown characters")


_BLANK = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
_PREPEND = {"type": "Prepend", "prepend": "▁"}
_WORDS = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
# Normalizer and pre-tokenizer, and whether they put a space before the text.
_KNOWN: tuple[tuple[Any, Any, bool], ...] = (
    ({"type": "Sequence", "normalizers": [_PREPEND, _BLANK]}, None, True),
    (_BLANK, None, False),
    (_BLANK, _WORDS, False),
)


def puts_space_first(tokenizer: Mapping[str, Any], where: str) -> bool:
    """Whether the tokenizer puts a space before the text.

    Raises:
        VocabularyError: the tokenizer treats spaces in a way that llama.cpp does not support.
    """
    normalizer, steps = tokenizer.get("normalizer"), tokenizer.get("pre_tokenizer")
    for known_normalizer, known_steps, prefix in _KNOWN:
        if (normalizer, steps) == (known_normalizer, known_steps):
            return prefix
    if normalizer is None and isinstance(steps, Mapping) and steps.get("type") == "Metaspace":
        plain = steps.get("replacement") == "▁" and steps.get("split") is False
        scheme = steps.get("prepend_scheme", "always")
        if plain and scheme in ("always", "first", "never"):
            return bool(scheme != "never")
    found = json.dumps({"normalizer": normalizer, "pre_tokenizer": steps})
    raise VocabularyError(f"{where}: the tokenizer treats spaces in an unknown way: {found[:400]}", hint=_MODEL)
