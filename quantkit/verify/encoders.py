"""The tokenizer a model was trained with, ready to encode: the other side of the comparison of token ids."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantkit.errors import VocabularyError
from quantkit.json_file import read_json
from quantkit.vocab import regexes
from quantkit.vocab.files import blank_before_text_only, tokens_behind_blanks
from quantkit.vocab.tiktoken import SPECIAL, byte_text, merged_parts, read_ranks


@dataclass(frozen=True)
class Encoder:
    """A tokenizer.

    Attributes:
        encode: the ids of a text, special tokens parsed, nothing added around it.
        prepare: a text in the form in which llama.cpp must give the same ids: normalized, where the tokenizer does so.
        probes: texts with added tokens, such as llama.cpp treats alike.
        added: how many added tokens these are.
        remarks: what is left out of the probes, because llama.cpp treats it in another way.
    """

    encode: Callable[[str], list[int]]
    prepare: Callable[[str], str]
    probes: tuple[str, ...]
    added: int
    remarks: tuple[str, ...] = ()


def tokenizer_file(folder: Path) -> Path | None:
    """The file of a folder to compare token ids with: what transformers would load."""
    names = ("tokenizer.json", "tokenizer.model", *sorted(path.name for path in folder.glob("*.tiktoken")))
    return next((folder / name for name in names if (folder / name).is_file()), None)


def open_encoder(path: Path) -> Encoder:
    """The tokenizer in a file that :func:`tokenizer_file` found.

    Raises:
        VocabularyError: it cannot be read.
    """
    return _OPEN[path.suffix](path)


def _open_json(path: Path) -> Encoder:
    # Checked by hand first: tokenizers raises bare Exception objects, for a missing file too.
    try:
        text = path.read_text(encoding="utf-8")
        source = json.loads(text)
    except (OSError, ValueError) as error:
        raise VocabularyError(f"{path}: cannot be read: {error}") from None
    if not isinstance(source, dict):
        raise VocabularyError(f"{path}: not a tokenizer: it is not a JSON object")
    return _encoder(text, source)


def _open_tiktoken(path: Path) -> Encoder:
    ranks = read_ranks(path)
    split = {"type": "Split", "pattern": {"Regex": regexes.QWEN2}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    source = {
        "version": "1.0",
        "added_tokens": [{"id": len(ranks) + i, "content": text, **flags} for i, text in enumerate(SPECIAL)],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]},
        "post_processor": None,
        "decoder": level,
        "model": {
            "type": "BPE",
            "vocab": {byte_text(token): rank for token, rank in ranks.items()},
            "merges": [[byte_text(left), byte_text(right)] for left, right in merged_parts(ranks, str(path))],
        },
    }
    return _encoder(json.dumps(source), source)


def _encoder(text: str, source: Mapping[str, Any]) -> Encoder:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(text)
    normalizer = tokenizer.normalizer
    # What puts U+2581 for blanks, or one before the text, is no normalization in this sense: llama.cpp does it too.
    composes = "NFC" in json.dumps(source.get("normalizer"))
    once = blank_before_text_only(source)
    tokens = tokenizer.get_added_tokens_decoder().values()
    apart = tokens_behind_blanks(source)
    probes = [None if token.content in apart else _probe(token, once) for token in tokens]
    return Encoder(
        encode=lambda probe: list(tokenizer.encode(probe, add_special_tokens=False).ids),
        prepare=normalizer.normalize_str if composes and normalizer is not None else str,
        probes=tuple(probe for probe in probes if probe is not None),
        added=len(probes),
        remarks=("a blank before text behind special tokens, which llama.cpp puts there, is not compared",)
        if once
        else (),
    )


def _probe(token: Any, once: bool) -> str | None:
    """A text with an added token; without blanks beside one that takes them in, between blanks if it is a word."""
    text = token.content.replace("▁", " ")  # how SentencePiece writes a blank
    if token.lstrip or token.rstrip:
        return None if token.single_word else f"one{text}" if once else f"one{text}two{text}"
    if once:
        return f"one {text}"
    return f"one {text} two" if token.single_word else f"one {text} two{text}"


def _open_model(path: Path) -> Encoder:
    from quantkit.vocab.model_proto import load_processor

    try:
        processor = load_processor(path.read_bytes())
    except (OSError, RuntimeError) as error:
        raise VocabularyError(f"{path}: cannot be read: {error}") from None
    config = path.with_name("tokenizer_config.json")
    entries = (read_json(config).get("added_tokens_decoder") or {}) if config.is_file() else {}
    added = {str(token["content"]): int(number) for number, token in entries.items()}

    def encode(text: str) -> list[int]:
        # SentencePiece knows nothing of added tokens: such a probe is one token and nothing else.
        return [added[text]] if text in added else list(processor.Encode(text))

    return Encoder(encode, str, tuple(added), len(added))


_OPEN: dict[str, Callable[[Path], Encoder]] = {
    ".json": _open_json,
    ".model": _open_model,
    ".tiktoken": _open_tiktoken,
}
