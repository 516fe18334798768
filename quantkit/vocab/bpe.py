"""The GGUF vocabulary from a tokenizer.json with byte-level BPE.

The token list, types and merges are those that llama.cpp's converter writes through transformers, but are read from
tokenizer.json directly: no tokenizer is run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from quantkit.errors import VocabularyError
from quantkit.gguf.kv import KVType, array, string
from quantkit.hub.tokenizer_files import VOCAB_JSON
from quantkit.vocab.files import (
    CONTROL,
    NORMAL,
    UNUSED,
    USER_DEFINED,
    Content,
    TokenizerFiles,
    flag_notes,
    looks_special,
    padding,
    padding_notes,
)
from quantkit.vocab.pretokenizer import PreTokenizer, looks_up_words, recognise
from quantkit.vocab.unigram import refuse_unigram

# BPE options that llama.cpp does not support, with the values that mean "off".
_OFF: dict[str, tuple[Any, ...]] = {
    "dropout": (None, 0, 0.0),
    "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": (None, ""),
    "byte_fallback": (None, False),
}


def read_bpe(files: TokenizerFiles) -> Content | None:
    """The vocabulary in tokenizer.json, or in vocab.json and merges.txt; None if there are no such files.

    Raises:
        VocabularyError: llama.cpp would not reproduce the tokenizer.
    """
    if not files.tokenizer:
        return None
    where = files.path("tokenizer.json")
    if not where.is_file():
        where = files.path(VOCAB_JSON)
    return bpe_content(files.tokenizer, files.tokenizer_config, files.rows, str(where))


def bpe_content(tokenizer: Mapping[str, Any], tokenizer_config: Mapping[str, Any], rows: int, where: str) -> Content:
    """Metadata for model, pre-tokenizer, tokens, types and merges.

    Args:
        tokenizer: tokenizer.json.
        tokenizer_config: tokenizer_config.json.
        rows: rows of the embedding; ids above the tokenizer's become ``[PAD<id>]``.
        where: path of tokenizer.json, for messages.

    Raises:
        VocabularyError: llama.cpp would not reproduce the tokenizer.
    """
    refuse_unigram(tokenizer, where)
    model = tokenizer.get("model") or {}
    if model.get("type") != "BPE":
        raise VocabularyError(f"{where}: model type {model.get('type')!r} is not supported; expected BPE")
    if (tokenizer.get("decoder") or {}).get("type") != "ByteLevel":
        raise VocabularyError(f"{where}: the decoder is not ByteLevel; expected a byte-level BPE")
    for option, off in _OFF.items():
        if model.get(option) not in off:
            raise VocabularyError(f"{where}: BPE option {option}={model[option]!r} is not supported by llama.cpp")
    pre = recognise(tokenizer, tokenizer_config, where)
    tokens, types = _tokens(tokenizer, tokenizer_config, rows, where)
    entries = [
        string("tokenizer.ggml.model", "gpt2"),
        string("tokenizer.ggml.pre", pre.name),
        array("tokenizer.ggml.tokens", tokens, KVType.STRING),
        array("tokenizer.ggml.token_type", types, KVType.INT32),
    ]
    if merges := merge_lines(model.get("merges") or [], where):
        entries.append(array("tokenizer.ggml.merges", merges, KVType.STRING))
    added = {token["content"]: token for token in tokenizer.get("added_tokens") or ()}
    notes = [*_whole_word_notes(tokenizer, pre), *flag_notes(added), *padding_notes(rows, types.count(UNUSED))]
    return Content(tuple(entries), tuple(tokens), tuple(notes))


def _whole_word_notes(tokenizer: Mapping[str, Any], pre: PreTokenizer) -> list[str]:
    found = looks_up_words(tokenizer)
    if found == pre.whole_words:
        return []
    habit = "looks up whole words first, like the model's original tokenizer" if pre.whole_words else "always merges"
    return [f"tokenizer.json: ignore_merges is {found}, but llama.cpp's {pre.name} {habit}"]


def _tokens(
    tokenizer: Mapping[str, Any], tokenizer_config: Mapping[str, Any], rows: int, where: str
) -> tuple[list[str], list[int]]:
    """Text and type of every id below *rows*."""
    vocabulary = tokenizer["model"].get("vocab")
    if not isinstance(vocabulary, dict) or not vocabulary:
        raise VocabularyError(f"{where}: the vocabulary is missing")
    added = {token["id"]: token for token in tokenizer.get("added_tokens") or ()}
    for text, number in (*vocabulary.items(), *((token["content"], number) for number, token in added.items())):
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            raise VocabularyError(f"{where}: token {text!r} has id {number!r}; expected a whole number")
    highest = max(max(vocabulary.values()), max(added, default=0))
    if highest >= rows:
        raise VocabularyError(
            f"{where}: token id {highest} has no row in the embedding, which has {rows} rows",
            hint="the tokenizer belongs to a model with a larger vocabulary: use the one saved with these weights",
        )
    tokens: list[str | None] = [None] * rows
    types = [UNUSED] * rows
    for text, number in vocabulary.items():
        if tokens[number] is not None:
            raise VocabularyError(f"{where}: id {number} is both {tokens[number]!r} and {text!r}")
        tokens[number], types[number] = text, NORMAL
    special = _marked_special(tokenizer_config)
    check_added_ids(vocabulary, tokenizer.get("added_tokens") or (), where)
    for number, token in added.items():
        if tokens[number] not in (None, token["content"]):
            raise VocabularyError(f"{where}: id {number} is both {tokens[number]!r} and {token['content']!r}")
        tokens[number], types[number] = _added(token, special)
    _match_config(tokenizer_config, tokens, where)
    return [padding(number) if text is None else text for number, text in enumerate(tokens)], types


def check_added_ids(vocabulary: Mapping[str, int], added: Sequence[Mapping[str, Any]], where: str) -> None:
    """Check the ids of added tokens, which the tokenizers library assigns itself, whatever the file says.

    A text that already has an id keeps it; a new one gets the next id, counted from the size of the vocabulary, even if
    the vocabulary has gaps.

    Raises:
        VocabularyError: the file has different ids.
    """
    known, following = dict(vocabulary), len(vocabulary)
    for token in added:
        if token["content"] not in known:
            known[token["content"]] = following
            following += 1
        expected = known[token["content"]]
        if token["id"] != expected:
            raise VocabularyError(
                f"{where}: added token {token['content']!r} has id {token['id']}, but transformers gives it {expected}",
                hint="save the tokenizer again with transformers",
            )


def _added(token: Mapping[str, Any], special: set[str]) -> tuple[str, int]:
    text = str(token["content"])
    if token.get("special") or text in special or looks_special(text):
        return text, CONTROL
    return text.replace("▁", " "), USER_DEFINED


def _marked_special(tokenizer_config: Mapping[str, Any]) -> set[str]:
    """Tokens that tokenizer_config.json makes special, whatever tokenizer.json says."""
    decoder = tokenizer_config.get("added_tokens_decoder") or {}
    return {str(token["content"]) for token in decoder.values() if token.get("special")}


def _match_config(tokenizer_config: Mapping[str, Any], tokens: list[str | None], where: str) -> None:
    """Check that tokenizer_config.json, which may repeat added tokens, does not contradict tokenizer.json."""
    for key, token in (tokenizer_config.get("added_tokens_decoder") or {}).items():
        if not key.isdecimal():
            raise VocabularyError(
                f"{where}: tokenizer_config.json has the id {key!r} in added_tokens_decoder; expected a whole number"
            )
        number = int(key)
        known = tokens[number] if 0 <= number < len(tokens) else None
        if known != token["content"] and known != str(token["content"]).replace("▁", " "):
            raise VocabularyError(
                f"{where}: id {number} is {known!r}, but in tokenizer_config.json it is {token['content']!r}",
                hint="save the tokenizer again with transformers, so that its files agree",
            )


def merge_lines(merges: Any, where: str) -> list[str]:
    """Merges as "left right", with spaces inside a part escaped as llama.cpp expects.

    Raises:
        VocabularyError: they are neither texts nor pairs.
    """
    try:
        if isinstance(merges, list) and all(isinstance(merge, str) for merge in merges):
            return merges
        return [f"{left} {right}" if " " not in left + right else _escape(left, right) for left, right in merges]
    except (TypeError, ValueError, AttributeError):
        raise VocabularyError(f"{where}: merges have an unknown format") from None


def _escape(left: str, right: str) -> str:
    space = chr(ord(" ") + 256)
    return f"{left.replace(' ', space)} {right.replace(' ', space)}"
