"""The files of a tokenizer, and the content that a reader extracts from them."""

from __future__ import annotations

import filecmp
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from quantkit.files.json_file import read_json
from quantkit.gguf.kv import KV, KVType, array, string
from quantkit.hub.tokenizer_files import TOKENIZER_CONFIG
from quantkit.vocab.families import NO_RULES, VocabularyRules
from quantkit.vocab.slow_bpe import slow_settings, slow_tokenizer

# llama.cpp's token types; a control token is never written as text.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6


class ParsedFiles:
    """JSON files that are parsed once, and files with the same content as one of them not at all.

    Parsing the tokenizer.json of a large vocabulary takes 0.2 s and 100 MB, choosing a tokenizer and reading it need
    the same one, and the one beside an adapter is often a copy of the base's.
    """

    def __init__(self) -> None:
        self._parsed: dict[Path, dict[str, Any]] = {}

    def read(self, path: Path) -> dict[str, Any]:
        """The content of a file; see :func:`quantkit.files.json_file.read_json`."""
        if path not in self._parsed:
            same = next((known for known in self._parsed if _equal(known, path)), None)
            self._parsed[path] = read_json(path) if same is None else self._parsed[same]
        return self._parsed[path]

    def clear(self) -> None:
        """Free the memory."""
        self._parsed.clear()


def _equal(one: Path, other: Path) -> bool:
    with suppress(OSError):  # reading it raises the error
        return filecmp.cmp(one, other, shallow=False)
    return False


@dataclass(frozen=True)
class TokenizerFiles:
    """A folder with a tokenizer, and the model that it belongs to.

    Attributes:
        folder: the folder with the tokenizer's files.
        config: config.json of the model.
        generation: its generation_config.json.
        rows: number of rows of the model's embedding.
        rules: the rules of its family.
        special: settings that replace those of tokenizer_config.json.
        parsed: reads tokenizer.json.
    """

    folder: Path
    config: Mapping[str, Any]
    generation: Mapping[str, Any]
    rows: int
    rules: VocabularyRules = NO_RULES
    special: Mapping[str, str] = field(default_factory=dict)
    parsed: ParsedFiles = field(default_factory=ParsedFiles)

    def path(self, name: str) -> Path:
        """The path of a file in the folder, which may not exist."""
        return self.folder / name

    def json(self, name: str) -> dict[str, Any]:
        """A JSON file of the folder; empty if there is none."""
        path = self.path(name)
        return read_json(path) if path.is_file() else {}

    @cached_property
    def tokenizer(self) -> dict[str, Any]:
        """tokenizer.json, or what takes its place for a slow byte-level BPE; empty for other kinds."""
        path = self.path("tokenizer.json")
        return self.parsed.read(path) if path.is_file() else slow_tokenizer(self.folder)

    @cached_property
    def tokenizer_config(self) -> dict[str, Any]:
        """tokenizer_config.json, with what the class of a slow tokenizer adds."""
        return {**(slow_settings(self.folder) or read_tokenizer_config(self.folder)), **self.special}


def read_tokenizer_config(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json of a folder, empty when there is none."""
    path = folder / TOKENIZER_CONFIG
    return read_json(path) if path.is_file() else {}


def checked_ids(tokens: Mapping[Any, Any]) -> dict[str, int]:
    """The ids of tokens, which come from a file.

    Raises:
        TypeError: a token is no text, or its id is no whole number.
    """
    for text, number in tokens.items():
        if not isinstance(text, str) or type(number) is not int:
            raise TypeError(f"the id of {text!r:.80} is {number!r:.80}")
    return dict(tokens)


@dataclass(frozen=True)
class Content:
    """The content of the tokenizer's files.

    Attributes:
        entries: metadata for model, pre-tokenizer, tokens, types, and merges or scores.
        texts: the texts of all tokens, by id.
        notes: notes for the plan.
        fallback: ids by kind of special token, for a model whose files name none.
    """

    entries: tuple[KV, ...]
    texts: tuple[str, ...]
    notes: tuple[str, ...] = ()
    fallback: Mapping[str, int] = field(default_factory=dict)


def spm_entries(texts: list[str], scores: list[float], types: list[int], pre: str = "default") -> tuple[KV, ...]:
    """The metadata of a vocabulary that llama.cpp merges by score."""
    return (
        string("tokenizer.ggml.model", "llama"),
        string("tokenizer.ggml.pre", pre),
        array("tokenizer.ggml.tokens", texts, KVType.STRING),
        array("tokenizer.ggml.scores", scores, KVType.FLOAT32),
        array("tokenizer.ggml.token_type", types, KVType.INT32),
    )


def padding(number: int) -> str:
    """The text for an embedding row that has no token."""
    return f"[PAD{number}]"


def padding_notes(rows: int, unused: int) -> list[str]:
    """A note if the embedding has more rows than the tokenizer has tokens."""
    if not unused:
        return []
    return [
        f"the embedding has {rows} rows, but the tokenizer only {rows - unused} tokens: unused tokens fill the rest"
    ]


def looks_special(text: str) -> bool:
    """Whether a token should be a control token, even if it is not marked so; the list of llama.cpp's converter."""
    return (
        text in ("<pad>", "<mask>", "<2mass>", "[@BOS@]")
        or (text.startswith("<|") and text.endswith("|>"))
        or (text.startswith("<｜") and text.endswith("｜>"))
        or (text.startswith("<unused") and text.endswith(">"))
    )


def flag_notes(added: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Notes on flags of added tokens, given by text, that llama.cpp ignores: it finds the tokens anywhere."""
    meanings = {
        "lstrip": "absorb whitespace before them",
        "rstrip": "absorb whitespace after them",
        "single_word": "match only between words",
    }
    notes = []
    for flag, meaning in meanings.items():
        texts = [text for text, token in added.items() if token.get(flag)]
        if texts:
            more = f" and {len(texts) - 1} more" if len(texts) > 1 else ""
            notes.append(f"some added tokens {meaning} ({flag}: {texts[0]!r}{more}), but not in llama.cpp")
    return notes


def blank_before_text_only(tokenizer: Mapping[str, Any]) -> bool:
    """Whether a tokenizer.json puts a space before the text, but not before text that follows a special token.

    llama.cpp puts it in both places.
    """
    step = tokenizer.get("pre_tokenizer") or {}
    return step.get("type") == "Metaspace" and step.get("prepend_scheme") == "first"


def tokens_behind_blanks(tokenizer: Mapping[str, Any]) -> list[str]:
    """Added tokens that the tokenizers library finds only after a space, which they absorb.

    The library normalizes such tokens like texts, and the normalizer puts a space before them.
    """
    normalizer = tokenizer.get("normalizer") or {}
    if not any(step.get("type") == "Prepend" for step in normalizer.get("normalizers", [normalizer])):
        return []
    return [token["content"] for token in tokenizer.get("added_tokens") or () if token.get("normalized")]


def blank_notes(tokenizer: Mapping[str, Any]) -> list[str]:
    """Notes on spaces next to special and added tokens that llama.cpp treats differently."""
    notes = []
    if blank_before_text_only(tokenizer):
        notes.append("llama.cpp puts a space before text that follows a special token; transformers does not")
    if texts := tokens_behind_blanks(tokenizer):
        more = f" and {len(texts) - 1} more" if len(texts) > 1 else ""
        notes.append(
            f"transformers finds some added tokens only after a space, which they absorb (normalized: {texts[0]!r}"
            f"{more}); llama.cpp finds them anywhere and keeps the space"
        )
    return notes
