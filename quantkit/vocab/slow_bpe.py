"""Byte-level BPE from ``vocab.json`` and ``merges.txt``, the files that Hugging Face's slow tokenizers save.

The steps around BPE are not in these files but in the Python class that tokenizer_config.json names. For each class of
:data:`SLOW_CLASSES` they are written down here, as transformers builds its fast tokenizer from the same files; the
result has the form of a tokenizer.json, so everything else reads it as one. Other classes are refused by name: their
files look the same, and a wrong split of the text would tokenize almost correctly.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quantkit.errors import VocabularyError
from quantkit.files.json_file import read_json
from quantkit.hub.tokenizer_files import (
    ADDED_TOKENS,
    MERGES,
    SPECIAL_TOKENS,
    TOKENIZER_CONFIG,
    VOCAB_JSON,
    has_slow_bpe,
)
from quantkit.vocab import regexes
from quantkit.vocab.post_processor import KINDS, token_text

_CONFIG = "config.json"
_END = "<|endoftext|>"
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized")
_EXTRA = ("extra_special_tokens", "additional_special_tokens")


@dataclass(frozen=True)
class SlowClass:
    """What a tokenizer class of transformers adds to its two files.

    Attributes:
        special: texts of special tokens by kind, for files that name none.
        split: the regex that splits text; None for GPT-2's, which is built into the byte-level step.
        composes: whether text is normalized to NFC.
        plain: whether it adds its special tokens once more, plainly, whatever flags the files give them.
        settings: settings of tokenizer_config.json that the class has by default.
    """

    special: Mapping[str, str]
    split: str | None = None
    composes: bool = False
    plain: bool = False
    settings: Mapping[str, Any] = field(default_factory=lambda: {"add_prefix_space": False})


_THREE = dict.fromkeys(("unk", "bos", "eos"), _END)

SLOW_CLASSES: Mapping[str, SlowClass] = {
    "GPT2Tokenizer": SlowClass(_THREE),
    "GPTNeoXTokenizer": SlowClass({**_THREE, "pad": "<|padding|>"}, composes=True),
    "Qwen2Tokenizer": SlowClass(
        dict.fromkeys(("unk", "eos", "pad"), _END), regexes.QWEN2, composes=True, plain=True, settings={}
    ),
}
"""By name in ``tokenizer_class``, without ``Fast``."""

# Models whose class transformers knows without a tokenizer_class; for the first it takes no other.
_BY_MODEL = dict.fromkeys(("qwen2", "qwen2_moe", "qwen3", "qwen3_moe"), "Qwen2Tokenizer")
_FIXED = ("qwen2",)


def slow_tokenizer(folder: Path) -> dict[str, Any]:
    """The tokenizer in the folder's vocab.json and merges.txt, as the content of a tokenizer.json.

    Empty if the folder has another tokenizer file, or lacks the two.

    Raises:
        VocabularyError: the class is unknown, or a file is broken.
    """
    if not has_slow_bpe(folder):
        return {}
    config = _read(folder / TOKENIZER_CONFIG)
    name, known = _class(folder, config)
    vocabulary = _vocabulary(folder / VOCAB_JSON)
    prefix = config.get("add_prefix_space") is True
    level = {**_BYTE_LEVEL, "add_prefix_space": prefix, "use_regex": known.split is None}
    split = {"type": "Split", "pattern": {"Regex": known.split}, "behavior": "Isolated", "invert": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added(folder, config, known, vocabulary),
        "normalizer": {"type": "NFC"} if known.composes else None,
        "pre_tokenizer": level if known.split is None else {"type": "Sequence", "pretokenizers": [split, level]},
        "post_processor": _post_processor(folder, config, known, name),
        "decoder": _BYTE_LEVEL,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": [list(pair) for pair in _last_of_each(_merges(folder / MERGES, vocabulary))],
        },
    }


def slow_settings(folder: Path) -> dict[str, Any]:
    """The folder's tokenizer_config.json, with what its class and special_tokens_map.json add.

    Empty as :func:`slow_tokenizer` is.

    Raises:
        VocabularyError: the class is unknown.
    """
    if not has_slow_bpe(folder):
        return {}
    config = _read(folder / TOKENIZER_CONFIG)
    _, known = _class(folder, config)
    named = {f"{kind}_token": token for kind, token in _named(folder, config, known).items()}
    return {**known.settings, **config, **named}


def slow_tokens(folder: Path) -> dict[str, int] | None:
    """The ids in the folder's files, whatever its class; None as :func:`slow_tokenizer` is empty."""
    if not has_slow_bpe(folder):
        return None
    added = {token["content"]: number for number, token in _listed(folder, _read(folder / TOKENIZER_CONFIG))}
    return {**_vocabulary(folder / VOCAB_JSON), **added}


def _read(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _class(folder: Path, config: Mapping[str, Any]) -> tuple[str, SlowClass]:
    model = _read(folder / _CONFIG)
    kind = str(model.get("model_type") or "")
    said = config.get("tokenizer_class") or model.get("tokenizer_class")
    default = _BY_MODEL.get(kind)
    name = str(default if default and (said is None or kind in _FIXED) else said or "").removesuffix("Fast")
    if name in SLOW_CLASSES:
        return name, SLOW_CLASSES[name]
    named = f"of class {name}" if name else "whose class is not named (tokenizer_class in tokenizer_config.json)"
    raise VocabularyError(
        f"{folder / VOCAB_JSON}: a tokenizer {named}: how it splits text is not in {VOCAB_JSON} and {MERGES}",
        hint=f"copy the model's tokenizer.json into the folder; without it, supported are {', '.join(SLOW_CLASSES)}",
    )


def _vocabulary(path: Path) -> dict[str, int]:
    vocabulary = read_json(path)
    for text, number in vocabulary.items():
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            raise VocabularyError(f"{path}: token {text!r} has id {number!r}; expected a whole number")
    if not vocabulary:
        raise VocabularyError(f"{path}: the vocabulary is empty", hint=_again(path))
    return vocabulary


def _merges(path: Path, vocabulary: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """The merges, one per line; transformers stops at a line that is none and at parts that are no tokens."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise VocabularyError(f"{path}: cannot be read ({error})", hint=_again(path)) from None
    for number, line in enumerate(text.removesuffix("\n").split("\n"), 1):
        pair = line.removesuffix("\r").split(" ")
        if line.startswith("#version"):
            continue
        if len(pair) != 2:
            raise VocabularyError(f"{path}: line {number} is not two tokens with a space between", hint=_again(path))
        left, right = pair
        for token in (left, right, left + right):
            if token not in vocabulary:
                raise VocabularyError(
                    f"{path}: line {number} has the token {token!r}, which {VOCAB_JSON} does not have",
                    hint=_again(path),
                )
        yield left, right


def _last_of_each(pairs: Iterable[tuple[str, str]]) -> Iterable[tuple[str, str]]:
    """Of a merge that is listed twice the later place, as in the tokenizers library."""
    places: dict[tuple[str, str], None] = {}
    for pair in pairs:
        places.pop(pair, None)
        places[pair] = None
    return places


def _again(path: Path) -> str:
    return f"download {path.name} again: {VOCAB_JSON} and {MERGES} must come from one tokenizer"


def _named(folder: Path, config: Mapping[str, Any], known: SlowClass) -> dict[str, Any]:
    """Special tokens by kind, as texts or objects: the class's, tokenizer_config.json's, special_tokens_map.json's."""
    return {**known.special, **_said(folder, config)}


def _said(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Special tokens by kind that the files name; null for none."""
    return {
        kind: found[f"{kind}_token"]
        for found in (config, _map(folder, config))
        for kind in KINDS
        if f"{kind}_token" in found
    }


def _map(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """special_tokens_map.json, which transformers does not read if the config has added_tokens_decoder."""
    return {} if "added_tokens_decoder" in config else _read(folder / SPECIAL_TOKENS)


def _added(
    folder: Path, config: Mapping[str, Any], known: SlowClass, vocabulary: Mapping[str, int]
) -> list[dict[str, Any]]:
    """The added tokens in the order of their ids, which the tokenizers library assigns."""
    named = [token for token in _named(folder, config, known).values() if token is not None]
    texts = {token_text(token) for token in named}
    listed = list(_listed(folder, config))
    tokens = {
        token["content"]: {**token, "special": token["special"] or token["content"] in texts} for _, token in listed
    }
    extra = _extra(config, _map(folder, config))
    for token in (*named, *extra):
        if (text := token_text(token)) is not None and text not in tokens:
            tokens[text] = _token(token, special=True)
    if known.plain:
        again = texts | {token_text(token) for token in extra}
        tokens |= {text: _token(text, special=True) for text in tokens if text in again}
    ids = dict(vocabulary)
    for text in tokens:
        ids.setdefault(text, len(ids))
    for number, token in listed:
        if ids[token["content"]] != number:
            file = TOKENIZER_CONFIG if "added_tokens_decoder" in config else ADDED_TOKENS
            raise VocabularyError(
                f"{folder / file}: added token {token['content']!r} has id {number}, but transformers gives it "
                f"{ids[token['content']]}",
                hint=f"use the {VOCAB_JSON} and {file} that were saved together",
            )
    return sorted(({"id": ids[text], **token} for text, token in tokens.items()), key=lambda token: token["id"])


def _listed(folder: Path, config: Mapping[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Added tokens with the ids that the files give them: of added_tokens_decoder, else of added_tokens.json."""
    if "added_tokens_decoder" in config:
        for number, token in sorted(config["added_tokens_decoder"].items(), key=lambda item: int(item[0])):
            yield int(number), _token(token, special=bool(token.get("special")))
        return
    # Those that only the map lists are not special yet: transformers reads added_tokens.json before.
    special = {token_text(token) for token in (*_said(folder, config).values(), *_extra(config))}
    for text, number in sorted(_read(folder / ADDED_TOKENS).items(), key=lambda item: item[1]):
        yield number, _token(text, special=text in special)


def _extra(*files: Mapping[str, Any]) -> list[Any]:
    """Further special tokens: of the first file that lists some."""
    found = next((file[key] for file in files for key in _EXTRA if file.get(key)), ())
    return list(found.values() if isinstance(found, Mapping) else found)


def _token(entry: Any, *, special: bool) -> dict[str, Any]:
    """An added token as tokenizer.json has it, from its text or from an object with flags."""
    flags = entry if isinstance(entry, Mapping) else {}
    found = {key: bool(flags.get(key, key == "normalized" and not special)) for key in _FLAGS}
    return {"content": token_text(entry), **found, "special": special}


def _post_processor(folder: Path, config: Mapping[str, Any], known: SlowClass, name: str) -> dict[str, Any]:
    """Adds BOS and EOS as tokenizer_config.json says; none of the classes does it by itself."""
    named = _named(folder, config, known)
    single: list[dict[str, Any]] = [{"Sequence": {"id": "A", "type_id": 0}}]
    pair: list[dict[str, Any]] = [{"Sequence": {"id": "B", "type_id": 1}}]
    for kind, at in (("bos", 0), ("eos", 1)):
        text = token_text(named.get(kind))
        if config.get(f"add_{kind}_token") is not True or text is None:
            continue
        single.insert(at * len(single), {"SpecialToken": {"id": text, "type_id": 0}})
        pair.insert(at * len(pair), {"SpecialToken": {"id": text, "type_id": 1}})
    return {"type": "TemplateProcessing", "single": single, "pair": [*single, *pair], "special_tokens": {}}
