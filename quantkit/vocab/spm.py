"""The GGUF vocabulary from ``tokenizer.model`` (SentencePiece), as llama.cpp's converter writes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantkit.errors import VocabularyError
from quantkit.gguf.kv import KV, boolean
from quantkit.vocab.families import VocabularyRules
from quantkit.vocab.files import (
    CONTROL,
    UNUSED,
    USER_DEFINED,
    Content,
    TokenizerFiles,
    blank_notes,
    flag_notes,
    looks_special,
    padding,
    padding_notes,
    spm_entries,
)
from quantkit.vocab.model_proto import SentencePieceModel, read_model

_PADDING_SCORE, _ADDED_SCORE = -10000.0, -1000.0
_LAST_BYTE = "<0xFF>"


@dataclass(frozen=True)
class _Added:
    """A token that is added to the pieces: its id, text and type."""

    number: int
    text: str
    kind: int


def read_sentencepiece(files: TokenizerFiles) -> Content | None:
    """The vocabulary in tokenizer.model; None if there is no such file.

    Raises:
        VocabularyError: the file is broken, or treats text in a way that llama.cpp does not support.
    """
    path = files.path("tokenizer.model")
    if not path.is_file():
        return None
    model = read_model(path)
    check_model(model, path)
    texts = [padding(number) for number in range(files.rows)]
    scores, types = [_PADDING_SCORE] * files.rows, [UNUSED] * files.rows
    for number, (text, score, kind) in enumerate(model.pieces[: files.rows]):
        unused = files.rules.unused is not None and text.startswith(files.rules.unused)
        texts[number] = files.rules.null if text == "\0" else text
        scores[number], types[number] = score, UNUSED if unused else kind
    outside = [text for text, _, _ in model.pieces[files.rows :]]
    for token in _added(files):
        if token.number >= files.rows:
            outside.append(token.text)
            continue
        texts[token.number], scores[token.number], types[token.number] = token.text, _ADDED_SCORE, token.kind
    free = sum(text == padding(number) for number, text in enumerate(texts))
    decoder = files.tokenizer_config.get("added_tokens_decoder") or {}
    notes = [
        *blank_notes(files.tokenizer),
        *flag_notes({token["content"]: token for token in decoder.values()}),
        *padding_notes(files.rows, free),
        *_outside_notes(files.rows, outside),
    ]
    entries = (*spm_entries(texts, scores, types), *prefix_entries(model, files.rules))
    return Content(entries, tuple(texts), tuple(notes))


def prefix_entries(model: SentencePieceModel, rules: VocabularyRules) -> list[KV]:
    """Whether a space is put before the text, where the file must say so: llama.cpp puts one if the key is absent."""
    told = rules.tells_prefix or not model.dummy_prefix
    return [boolean("tokenizer.ggml.add_space_prefix", model.dummy_prefix)] if told else []


def check_model(model: SentencePieceModel, path: Path) -> None:
    """Check that llama.cpp can reproduce it: pieces merged by score, all spaces kept, byte fallback.

    Raises:
        VocabularyError: it cannot.
    """
    wrong = {
        "this is a unigram model; llama.cpp merges pieces as in BPE": not model.merges,
        "the tokenizer normalizes text, which llama.cpp does not": model.rewrites,
        "the tokenizer removes spaces, which llama.cpp keeps": model.removes_blanks,
        "the tokenizer puts spaces after words, llama.cpp before them": model.suffix_blanks,
        "there are no byte pieces, which llama.cpp needs for unknown characters": all(
            text != _LAST_BYTE for text, _, _ in model.pieces
        ),
    }
    for reason, found in wrong.items():
        if found:
            raise VocabularyError(
                f"{path}: {reason}", hint="GGUF cannot express this tokenizer: run the model with transformers"
            )


def _added(files: TokenizerFiles) -> Iterator[_Added]:
    """The added tokens in the order in which they override pieces; the last one with an id is used."""
    for text, number in files.json("added_tokens.json").items():
        yield _Added(_id(number, files.path("added_tokens.json")), text, USER_DEFINED)
    marked = files.rules.trust_special_flag
    decoder = files.tokenizer_config.get("added_tokens_decoder") or {}
    for key, token in decoder.items():
        number = _id(int(key) if key.isdecimal() else key, files.path("tokenizer_config.json"))
        yield _marked(number, token) if marked else _guessed(number, token)
    # The converter, which trusts the special flag only for Phi-3, also looks here then.
    for token in (files.tokenizer.get("added_tokens") or ()) if marked else ():
        yield _marked(_id(token["id"], files.path("tokenizer.json")), token)


def _id(number: Any, path: Path) -> int:
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        raise VocabularyError(f"{path}: an added token has the id {number!r}; expected a whole number")
    return number


def _marked(number: int, token: Mapping[str, Any]) -> _Added:
    return _Added(number, str(token["content"]), CONTROL if token.get("special") else USER_DEFINED)


def _guessed(number: int, token: Mapping[str, Any]) -> _Added:
    text = str(token["content"])
    if token.get("special") or looks_special(text):
        return _Added(number, text, CONTROL)
    return _Added(number, text.replace("▁", " "), USER_DEFINED)


def _outside_notes(rows: int, outside: list[str]) -> list[str]:
    if not outside:
        return []
    more = f" and {len(outside) - 1} more" if len(outside) > 1 else ""
    return [f"the embedding has {rows} rows, but none for the token {outside[0]!r}{more}: left out"]
