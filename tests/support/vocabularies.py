"""Hugging Face tokenizers with the real Llama-3 and Qwen2 vocabularies, rebuilt from llama.cpp's vocabulary files.

Tokens of type "normal" are the BPE vocabulary, "control" the added tokens, and the merges are in the file. What the
file does not carry (the split regex, normalizer, post-processor) is written as the models' own tokenizer.json has it,
and proven by llama.cpp's 47 test vectors. A cut vocabulary, where the real one is not the point, keeps the first
tokens, the merges closed over them, and the special tokens at new ids.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import gguf

from tests.support.gguf_read import read_gguf
from tests.support.reference import reference_folder

SMALL_SIZE = 2000
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_VECTOR_SEPARATOR = "\n__ggml_vocab_test__\n"
# Kept by the cut vocabulary; the other reserved tokens are not.
_LLAMA_SPECIAL = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|reserved_special_token_0|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|reserved_special_token_4|>",
    "<|eot_id|>",
)
# As of Meta-Llama-3-8B-Instruct.
LLAMA_3_TEMPLATE = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + "
    "message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
    "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Source:
    """What llama.cpp's vocabulary file holds: texts by id, types by id, merges as "left right"."""

    tokens: tuple[str, ...]
    types: tuple[int, ...]
    merges: tuple[str, ...]
    chat_template: str

    @property
    def added(self) -> tuple[str, ...]:
        """The added tokens; they follow the BPE vocabulary."""
        pairs = zip(self.tokens, self.types, strict=True)
        return tuple(text for text, kind in pairs if kind == gguf.TokenType.CONTROL)

    @property
    def normal(self) -> tuple[str, ...]:
        """The BPE vocabulary."""
        pairs = zip(self.tokens, self.types, strict=True)
        return tuple(text for text, kind in pairs if kind == gguf.TokenType.NORMAL)


@cache
def read_source(name: str) -> Source:
    """llama.cpp's vocabulary *name*: ``llama-bpe`` or ``qwen2``."""
    metadata = read_gguf(reference_folder() / "models" / f"ggml-vocab-{name}.gguf").metadata
    return Source(
        tuple(metadata["tokenizer.ggml.tokens"].value),
        tuple(metadata["tokenizer.ggml.token_type"].value),
        tuple(metadata["tokenizer.ggml.merges"].value),
        LLAMA_3_TEMPLATE if name == "llama-bpe" else metadata["tokenizer.chat_template"].value,
    )


def test_vectors(name: str) -> list[tuple[str, list[int]]]:
    """llama.cpp's own test vectors of a vocabulary: texts and their token ids, without BOS."""
    models = reference_folder() / "models"
    texts = (models / f"ggml-vocab-{name}.gguf.inp").read_bytes().decode().split(_VECTOR_SEPARATOR)
    lines = (models / f"ggml-vocab-{name}.gguf.out").read_text(encoding="utf-8").split("\n")
    return [(text, [int(number) for number in line.split()]) for text, line in zip(texts, lines, strict=True)]


test_vectors.__test__ = False  # type: ignore[attr-defined]  # a helper, not a test


def write_vocabulary(
    folder: Path, name: str, *, small: bool = False, extra: Sequence[str] = (), ordinary: Sequence[tuple[str, str]] = ()
) -> Path:
    """Write tokenizer.json and tokenizer_config.json.

    Args:
        folder: created when absent.
        name: ``llama-bpe`` or ``qwen2``.
        small: cut the vocabulary to its first 2000 tokens.
        extra: added tokens that are no control tokens, after the others (a vocabulary extended with ``add_tokens``).
        ordinary: BPE tokens put behind all others, each given as the two known tokens it is merged from (a vocabulary
            extended by training a tokenizer further).
    """
    source = read_source(name)
    special, normal = source.added, source.normal
    if small:
        normal = normal[:SMALL_SIZE]
        special = _LLAMA_SPECIAL if name == "llama-bpe" else special
    known = {text: number for number, text in enumerate(normal)}
    merges = source.merges
    if small:
        pairs = (merge.split(" ") for merge in merges)
        merges = tuple(f"{a} {b}" for a, b in pairs if a in known and b in known and a + b in known)
    if ordinary:
        merges += tuple(f"{left} {right}" for left, right in ordinary)
    tokenizer = _llama_tokenizer() if name == "llama-bpe" else _qwen2_tokenizer()
    vocabulary = {**known}
    added = [*special, *extra]
    if ordinary:
        # New BPE tokens stand behind the added ones, so that old ids stay. The tokenizers library then wants the added
        # tokens in the BPE vocabulary too: others it numbers by itself, from the vocabulary's size on.
        texts = [*added, *(left + right for left, right in ordinary)]
        vocabulary.update({text: len(known) + i for i, text in enumerate(texts)})
    tokenizer["model"] = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": name == "llama-bpe",
        "vocab": vocabulary,
        "merges": [merge.split(" ") for merge in merges],
    }
    tokenizer["added_tokens"] = [
        {**_added_token(text, text in special), "id": len(known) + i} for i, text in enumerate(added)
    ]
    _resolve_template_ids(tokenizer)
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "tokenizer.json", tokenizer)
    _write_json(folder / "tokenizer_config.json", _tokenizer_config(name, tokenizer, source.chat_template))
    return folder


def _added_token(text: str, special: bool) -> dict[str, Any]:
    return {
        "content": text,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": not special,
        "special": special,
    }


def _split(regex: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}


def _byte_level(**options: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False, **options}


def _llama_tokenizer() -> dict[str, Any]:
    start = "<|begin_of_text|>"
    bos, pair_bos = ({"SpecialToken": {"id": start, "type_id": number}} for number in (0, 1))
    first, second = {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}
    template = {
        "type": "TemplateProcessing",
        "single": [bos, first],
        "pair": [bos, first, pair_bos, second],
        "special_tokens": {
            "<|begin_of_text|>": {"id": "<|begin_of_text|>", "ids": [], "tokens": ["<|begin_of_text|>"]}
        },
    }
    byte_level = _byte_level(add_prefix_space=True, trim_offsets=False, use_regex=True)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [_split(rf"{_CONTRACTIONS}|{_LETTERS}|\p{{N}}{{1,3}}|{_REST}"), _byte_level()],
        },
        "post_processor": {"type": "Sequence", "processors": [byte_level, template]},
        "decoder": _byte_level(add_prefix_space=True, use_regex=True),
    }


def _qwen2_tokenizer() -> dict[str, Any]:
    byte_level = _byte_level(trim_offsets=False)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [_split(rf"{_CONTRACTIONS}|{_LETTERS}|\p{{N}}|{_REST}"), byte_level],
        },
        "post_processor": byte_level,
        "decoder": byte_level,
    }


def _resolve_template_ids(tokenizer: dict[str, Any]) -> None:
    """The post-processor names BOS by its id, which depends on the size of the vocabulary."""
    ids = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    for step in tokenizer["post_processor"].get("processors", ()):
        for text, entry in step.get("special_tokens", {}).items():
            entry["ids"] = [ids[text]]


def _tokenizer_config(name: str, tokenizer: dict[str, Any], chat_template: str) -> dict[str, Any]:
    added = tokenizer["added_tokens"]
    decoder = {str(token["id"]): {k: v for k, v in token.items() if k != "id"} for token in added}
    config: dict[str, Any] = {"added_tokens_decoder": decoder, "chat_template": chat_template}
    if name == "llama-bpe":
        config |= {
            "bos_token": "<|begin_of_text|>",
            "eos_token": "<|eot_id|>",
            "clean_up_tokenization_spaces": True,
            "model_input_names": ["input_ids", "attention_mask"],
            "model_max_length": 1000000000000000019884624838656,
            "tokenizer_class": "PreTrainedTokenizerFast",
        }
    else:
        config |= {
            "add_prefix_space": False,
            "bos_token": None,
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "unk_token": None,
            "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
            "clean_up_tokenization_spaces": False,
            "errors": "replace",
            "model_max_length": 32768,
            "split_special_tokens": False,
            "tokenizer_class": "Qwen2Tokenizer",
        }
    return config


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1), encoding="utf-8")
