"""Vocabularies that no GGUF file can hold, those in two files, and the choice between a model's and an adapter's own.

Unigram in tokenizer.json (T5, ALBERT), Mistral's tekken.json, and vocab.json with merges.txt.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from quantkit.jobs.inspect import inspect
from tests.support.fuzz import tiny
from tests.support.fuzz.mutate_json import JsonMutator
from tests.support.fuzz.parts import is_name, of_parts, write_sparse
from tests.support.fuzz.planned import plan
from tests.support.fuzz.reader import Reader, read_each
from tests.support.fuzz.scratch import folder

_MODULE = "base_model.model.model"
_ADAPTER = {
    "peft_type": "LORA",
    "r": 4,
    "lora_alpha": 8,
    "target_modules": ["q_proj"],
    "base_model_name_or_path": "a/b",
}
_FACTORS = {
    f"{_MODULE}.layers.0.self_attn.q_proj.lora_A.weight": ["F32", [4, 64]],
    f"{_MODULE}.layers.0.self_attn.q_proj.lora_B.weight": ["F32", [64, 4]],
}
_RESIZED = {
    name: ["F32", [tiny.ROWS + 1, 64]] for name in (f"{_MODULE}.embed_tokens.weight", "base_model.model.lm_head.weight")
}


def _unigram() -> dict[str, Any]:
    """As transformers writes the tokenizers of T5 and ALBERT."""
    pieces = [["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0], ["▁", -2.0], ["▁the", -3.5], ["a", -4.25]]
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    pair = [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}]
    return {
        "version": "1.0",
        "added_tokens": [{"id": at, "content": pieces[at][0], **flags, "special": True} for at in range(3)],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Precompiled", "precompiled_charsmap": "ALQCAACEAAAAAACAAQAAgMz8AgC4BQAA"},
                {"type": "Strip", "strip_left": False, "strip_right": True},
                {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"},
            ],
        },
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": pair,
            "pair": pair,
            "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}},
        },
        "decoder": metaspace,
        "model": {"type": "Unigram", "unk_id": 2, "vocab": pieces, "byte_fallback": False},
    }


def _tekken() -> dict[str, Any]:
    """Mistral's own format."""
    tokens = [bytes([byte]) for byte in (0, 1, 97, 98)] + [b"ab"]
    special = [{"rank": rank, "token_str": text, "is_control": True} for rank, text in enumerate(("<unk>", "<s>"))]
    return {
        "config": {
            "pattern": r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s+",
            "num_vocab_tokens": len(tokens),
            "default_vocab_size": len(tokens) + len(special),
            "default_num_special_tokens": len(special),
            "version": "v11",
        },
        "vocab": [
            {"rank": rank, "token_bytes": base64.b64encode(token).decode(), "token_str": token.decode()}
            for rank, token in enumerate(tokens)
        ],
        "special_tokens": special,
    }


def _seeds() -> Sequence[bytes]:
    sound, unigram, tekken = {"tokenizer.json": tiny.tokenizer()}, {"tokenizer.json": _unigram()}, _tekken()
    model = sound["tokenizer.json"]["model"]
    merges = "#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in model["merges"])
    slow = {
        "vocab.json": model["vocab"],
        "merges.txt": merges,
        "tokenizer_config.json": {
            "tokenizer_class": "GPT2Tokenizer",
            **dict.fromkeys(("bos_token", "eos_token", "unk_token"), "the"),
        },
        "added_tokens.json": {"<|eot_id|>": len(model["vocab"])},
    }
    more = tiny.tokenizer()
    more["added_tokens"].append({**more["added_tokens"][-1], "id": tiny.ROWS, "content": "<|more|>"})
    found: Sequence[Mapping[str, Any]] = (
        {"base": unigram},
        {"base": {"tekken.json": tekken}},
        {"base": {**sound, "tekken.json": tekken}},
        {"base": slow},
        {"base": sound, "adapter": unigram},
        {"base": sound, "adapter": {"tekken.json": tekken, "special_tokens_map.json": tiny.SPECIAL_TOKENS}},
        {"base": sound, "adapter": {"tokenizer.json": more}, "resized": _RESIZED},
        {"base": slow, "adapter": slow},
    )
    return [tiny.text(one) for one in found]


def _read(parts: dict[str, Any]) -> None:
    base = folder({**tiny.model(tokenizer_json=None, tokenizer_config_json=None), **_files(parts.get("base"))})
    if "adapter" not in parts:
        read_each(partial(plan, base), partial(inspect, base))
        return
    resized = parts.get("resized")
    config = {**_ADAPTER, "modules_to_save": ["embed_tokens", "lm_head"]} if resized else _ADAPTER
    place = folder({"adapter_config.json": tiny.text(config), **_files(parts["adapter"])})
    weights = {**_FACTORS, **(resized if isinstance(resized, dict) else {})}
    write_sparse(place / "adapter_model.safetensors", weights, b"\x3c")
    read_each(partial(plan, base, [place]), partial(inspect, base), partial(inspect, place))


def _files(found: Any) -> dict[str, bytes]:
    """Texts as they are, everything else as JSON."""
    return {
        name: value.encode("utf-8", "surrogatepass") if isinstance(value, str) else tiny.text(value)
        for name, value in (found.items() if isinstance(found, dict) else ())
        if is_name(name) and not name.endswith((".safetensors", ".bin"))
    }


READER = Reader(
    "vocabularies",
    _seeds,
    of_parts(_read),
    JsonMutator(
        words=(
            *("tokenizer.json", "tokenizer.model", "tekken.json", "vocab.json", "merges.txt", "added_tokens.json"),
            *("tokenizer_config.json", "special_tokens_map.json", "tokenizer_class", "GPT2Tokenizer", "Qwen2Tokenizer"),
            *("GPTNeoXTokenizer", "T5Tokenizer", "AlbertTokenizerFast", "Unigram", "BPE", "type", "vocab", "merges"),
            *("added_tokens", "content", "id", "special", "unk_id", "add_prefix_space", "add_bos_token", "a b\n", "a"),
            *("added_tokens_decoder", {"5": {"content": "a"}}, "eos_token", "bos_token", "model", "normalizer"),
            *(tiny.ROWS, tiny.ROWS + 1, [["a", 0.0]], {"a": 0}, ["a", "b"], "adapter", "base", "resized", _RESIZED),
        )
    ),
    largest=1 << 16,
)
