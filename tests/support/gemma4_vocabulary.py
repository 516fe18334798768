"""Gemma 4's tokenizer, rebuilt from llama.cpp's vocabulary file: tokenizer.json with byte fallback, and its config.

The steps around the merges are those of its own tokenizer.json; llama.cpp's test vectors prove them.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from tests.support.chat_templates import template_file
from tests.support.gguf_read import read_gguf
from tests.support.reference import reference_folder
from tests.support.tokenizer_parts import added_token, write_json

NAME = "gemma-4"
# Ids that a cut vocabulary keeps beside the special ones: merged tokens, and the first of the single characters.
_KEPT = (range(2000), range(236743, 237243))
_NORMAL, _BYTE = 1, 6
# The rest of tokenizer_config.json: names of tokens with a use of their own.
_NAMED = {
    "audio_token": "<|audio|>",
    "boa_token": "<|audio>",
    "boi_token": "<|image>",
    "bos_token": "<bos>",
    "eoa_token": "<audio|>",
    "eoc_token": "<channel|>",
    "eoi_token": "<image|>",
    "eos_token": "<eos>",
    "eot_token": "<turn|>",
    "escape_token": '<|"|>',
    "etc_token": "<tool_call|>",
    "etd_token": "<tool|>",
    "etr_token": "<tool_response|>",
    "image_token": "<|image|>",
    "mask_token": "<mask>",
    "pad_token": "<pad>",
    "soc_token": "<|channel>",
    "sot_token": "<|turn>",
    "stc_token": "<|tool_call>",
    "std_token": "<|tool>",
    "str_token": "<|tool_response>",
    "think_token": "<|think|>",
    "unk_token": "<unk>",
}
# Adds nothing around texts: BOS comes from the chat template.
_PIECES = [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}]
_POST = {"type": "TemplateProcessing", "single": _PIECES[:1], "pair": _PIECES, "special_tokens": {}}
_BLANK = {"String": " "}


@cache
def _source() -> tuple[list[str], list[int], list[str]]:
    metadata = read_gguf(reference_folder() / "models" / f"ggml-vocab-{NAME}.gguf").metadata
    tokens, types, merges = (metadata[f"tokenizer.ggml.{key}"].value for key in ("tokens", "token_type", "merges"))
    return list(tokens), list(types), list(merges)


def write_gemma4(folder: Path, *, small: bool, extra: tuple[str, ...] = ()) -> None:
    """Write tokenizer.json and tokenizer_config.json.

    Args:
        folder: an existing one.
        small: only some tokens, at new ids.
        extra: added tokens that are no control tokens, after the others.
    """
    tokens, types, merges = _source()
    if small:
        kept = [i for i, kind in enumerate(types) if kind not in (_NORMAL, _BYTE) or any(i in ids for ids in _KEPT)]
        tokens, types = [tokens[i] for i in kept], [types[i] for i in kept]
        known = {*tokens}
        merges = [merge for merge in merges if known.issuperset((*merge.split(" "), merge.replace(" ", "")))]
    added = [
        {**added_token(text, True), "id": number}
        for number, text in enumerate(tokens)
        if types[number] not in (_NORMAL, _BYTE)
    ]
    added += [{**added_token(text, False, normalized=False), "id": len(tokens) + i} for i, text in enumerate(extra)]
    model: dict[str, Any] = {
        "type": "BPE",
        "dropout": None,
        "unk_token": "<unk>",
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": True,
        "ignore_merges": False,
        "vocab": {text: number for number, text in enumerate(tokens)},
        "merges": [merge.split(" ") for merge in merges],
    }
    decoders = [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}]
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "Replace", "pattern": _BLANK, "content": "▁"},
        "pre_tokenizer": {"type": "Split", "pattern": _BLANK, "behavior": "MergedWithPrevious", "invert": False},
        "post_processor": _POST,
        "decoder": {"type": "Sequence", "decoders": [*decoders, {"type": "Fuse"}]},
        "model": model,
    }
    # Without indentation: half a million merges take seconds otherwise.
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    config = {
        **_NAMED,
        "backend": "tokenizers",
        "chat_template": template_file("google-gemma-4-31B-it"),
        "extra_special_tokens": ["<|video|>"],
        "model_max_length": 1000000000000000019884624838656,
        "model_specific_special_tokens": {
            key: text for key, text in _NAMED.items() if key[:3] not in ("bos", "eos", "pad", "unk", "mas")
        },
        "padding_side": "left",
        "tokenizer_class": "GemmaTokenizer",
    }
    write_json(folder / "tokenizer_config.json", config)
