"""The tokenizer that a model was trained with: its token ids are compared with llama.cpp's."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantkit.errors import VocabularyError
from quantkit.files.visible import visible
from quantkit.hub.tokenizer_files import TOKENIZER_CONFIG, VOCAB_JSON, VOCABULARIES, has_slow_bpe
from quantkit.vocab import regexes
from quantkit.vocab.chatglm import rank_specials
from quantkit.vocab.files import blank_before_text_only, read_tokenizer_config, tokens_behind_blanks
from quantkit.vocab.slow_bpe import slow_tokenizer
from quantkit.vocab.tiktoken import byte_text, holds_ranks, merged_parts, read_ranks, special_tokens


@dataclass(frozen=True)
class Encoder:
    """A tokenizer.

    Attributes:
        encode: returns the ids of a text, with special tokens parsed and nothing added.
        prepare: returns a text in the form for which llama.cpp must return the same ids: normalized, if the tokenizer
            normalizes.
        probes: texts with added tokens that llama.cpp treats the same way.
        added: number of added tokens.
        blank_once: whether it adds a blank before the text only, where llama.cpp also adds one after special tokens.
        own_blanks: whether it adds no blank where the text already has one, which llama.cpp does not support.
        plainly: like encode, but with llama.cpp's treatment of blanks before texts and next to special and added
            tokens; None if that is the same.
    """

    encode: Callable[[str], list[int]]
    prepare: Callable[[str], str]
    probes: tuple[str, ...]
    added: int
    blank_once: bool = False
    own_blanks: bool = False
    plainly: Callable[[str], list[int]] | None = None


_FLAGS = ("lstrip", "rstrip", "single_word")


def tokenizer_file(folder: Path) -> Path | None:
    """Return the tokenizer file of a folder to compare token ids with: the one transformers would load."""
    found = next((file for name in VOCABULARIES for file in visible(folder, name) if file.is_file()), None)
    return folder / VOCAB_JSON if found is None and has_slow_bpe(folder) else found


def open_encoder(path: Path) -> Encoder:
    """Open the tokenizer in a file that :func:`tokenizer_file` found.

    Raises:
        VocabularyError: it cannot be read.
    """
    if path.name == VOCAB_JSON:
        source = slow_tokenizer(path.parent)
        return _encoder(path, json.dumps(source), source)
    return _OPEN[path.suffix](path)


def _open_json(path: Path) -> Encoder:
    # Checked by hand first: tokenizers raises bare Exception objects, for a missing file too.
    try:
        text = path.read_text(encoding="utf-8")
        source = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise VocabularyError(f"{path}: cannot be read: {error}") from None
    if not isinstance(source, dict):
        raise VocabularyError(f"{path}: not a tokenizer: it is not a JSON object")
    return _encoder(path, text, source)


def _open_tiktoken(path: Path) -> Encoder:
    ranks = read_ranks(path)
    added = dict(enumerate(special_tokens(path.name), len(ranks)))
    return _rank_encoder(path, ranks, regexes.QWEN2, added, "NFC")


def _open_glm(path: Path) -> Encoder:
    ranks, settings = read_ranks(path), path.parent / TOKENIZER_CONFIG
    try:
        added = rank_specials(ranks, read_tokenizer_config(path.parent), str(settings))
        texts = {number: str(token["content"]) for number, token in added.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise VocabularyError(f"{settings}: added_tokens_decoder is broken ({type(error).__name__})") from None
    return _rank_encoder(path, ranks, regexes.CL100K, texts)


def _rank_encoder(
    path: Path, ranks: Mapping[bytes, int], regex: str, added: Mapping[int, str], normal: str = ""
) -> Encoder:
    split = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    source = {
        "version": "1.0",
        "added_tokens": [{"id": number, "content": text, **flags} for number, text in added.items()],
        "normalizer": {"type": normal} if normal else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]},
        "post_processor": None,
        "decoder": level,
        "model": {
            "type": "BPE",
            "vocab": {byte_text(token): rank for token, rank in ranks.items()},
            "merges": [[byte_text(left), byte_text(right)] for left, right in merged_parts(ranks, str(path))],
        },
    }
    return _encoder(path, json.dumps(source), source)


def _encoder(path: Path, text: str, source: Mapping[str, Any]) -> Encoder:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:
        if type(error) is not Exception:  # tokenizers raises exactly this class
            raise
        raise VocabularyError(f"{path}: not a tokenizer: {error}") from None
    normalizer = tokenizer.normalizer
    # Replacing blanks by U+2581, or adding one before the text, does not count: llama.cpp does it too.
    composes = "NFC" in json.dumps(source.get("normalizer"))
    once = blank_before_text_only(source)
    tokens = tokenizer.get_added_tokens_decoder().values()
    apart = tokens_behind_blanks(source)
    probes = [None if token.content in apart else _probe(token, once) for token in tokens]
    plain = _plain(source)
    return Encoder(
        encode=_ids(tokenizer),
        prepare=normalizer.normalize_str if composes and normalizer is not None else str,
        probes=tuple(probe for probe in probes if probe is not None),
        added=len(probes),
        blank_once=once,
        own_blanks=_own_blanks(source),
        plainly=None if plain == source else _ids(Tokenizer.from_str(json.dumps(plain))),
    )


def _ids(tokenizer: Any) -> Callable[[str], list[int]]:
    return lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids)


def _own_blanks(source: Mapping[str, Any]) -> bool:
    """Whether it is a tokenizer of Llama as transformers 5 saves it."""
    step = source.get("pre_tokenizer") or {}
    return step.get("type") == "Metaspace" and step.get("prepend_scheme", "always") != "never"


def _plain(source: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return tokenizer.json as llama.cpp reads it: added tokens match anywhere and keep the blanks around them."""
    tokens = [{**token, **dict.fromkeys(_FLAGS, False)} for token in source.get("added_tokens") or ()]
    if tokens_behind_blanks(source):
        tokens = [{**token, "normalized": False} for token in tokens]
    changed = {**source, "added_tokens": tokens}
    if _own_blanks(source):
        blank = source["pre_tokenizer"].get("replacement", "▁")
        steps = [
            *([source["normalizer"]] if source.get("normalizer") else []),
            {"type": "Prepend", "prepend": blank},
            {"type": "Replace", "pattern": {"String": " "}, "content": blank},
        ]
        changed |= {"normalizer": {"type": "Sequence", "normalizers": steps}, "pre_tokenizer": None}
    return changed


def _probe(token: Any, once: bool) -> str | None:
    """Return a text with an added token: without blanks if the token absorbs them, between blanks if it is a word."""
    text = token.content.replace("▁", " ")  # SentencePiece's form of a blank
    if token.lstrip or token.rstrip:
        return None if token.single_word else f"one{text}" if once else f"one{text}two{text}"
    if once:
        return f"one {text}"
    return f"one {text} two" if token.single_word else f"one {text} two{text}"


def _open_model(path: Path) -> Encoder:
    if holds_ranks(path):
        return _open_glm(path)
    from quantkit.vocab.model_proto import load_processor

    try:
        processor = load_processor(path.read_bytes())
    except (OSError, RuntimeError) as error:
        raise VocabularyError(f"{path}: cannot be read: {error}") from None
    settings = read_tokenizer_config(path.parent)
    entries = settings.get("added_tokens_decoder") or {}
    try:
        added = {str(token["content"]): int(number) for number, token in entries.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise VocabularyError(
            f"{path.parent / TOKENIZER_CONFIG}: added_tokens_decoder is broken ({type(error).__name__}: {error})"
        ) from None
    own = (processor.unk_id(), processor.bos_id(), processor.eos_id())
    special = {processor.IdToPiece(number): number for number in own if number >= 0} | added
    marks = re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))))

    def encode(text: str) -> list[int]:
        # SentencePiece does not know special and added tokens: transformers gives it the text between them.
        ids, position = [], 0
        for mark in marks.finditer(text):
            between = text[position : mark.start()]
            ids += [*(processor.Encode(between) if between else ()), special[mark.group()]]
            position = mark.end()
        return [*ids, *(processor.Encode(text[position:]) if text[position:] else ())]

    return Encoder(encode, str, tuple(added), len(added), blank_once=settings.get("legacy") is False)


_OPEN: dict[str, Callable[[Path], Encoder]] = {
    ".json": _open_json,
    ".model": _open_model,
    ".tiktoken": _open_tiktoken,
}
