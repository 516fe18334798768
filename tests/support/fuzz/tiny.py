"""The smallest sound folders of a model and of an adapter, as the bytes of their files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from quantkit.vocab.tiktoken import byte_text
from tests.support.fuzz.readers.safetensors_header import framed
from tests.support.pre_tokenizers import STRUCTURES

# type and shape of each tensor, by name
Shapes = Mapping[str, tuple[str, Sequence[int]]]

_BYTES = {"BF16": 2, "F16": 2, "F32": 4, "U8": 1, "I8": 1, "I64": 8}
_MERGES = (("t", "h"), ("th", "e"), ("i", "n"))
_SPECIAL = ("<|begin_of_text|>", "<|eot_id|>")
ROWS = 256 + len(_MERGES) + len(_SPECIAL)
"""Of the vocabulary."""

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 64,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "vocab_size": ROWS,
    "bos_token_id": ROWS - 2,
    "eos_token_id": ROWS - 1,
}
_LAYER = "model.layers.0."
SHAPES: Shapes = {
    "model.embed_tokens.weight": ("BF16", (ROWS, 64)),
    "model.norm.weight": ("BF16", (64,)),
    f"{_LAYER}input_layernorm.weight": ("BF16", (64,)),
    f"{_LAYER}post_attention_layernorm.weight": ("BF16", (64,)),
    f"{_LAYER}self_attn.q_proj.weight": ("BF16", (64, 64)),
    f"{_LAYER}self_attn.k_proj.weight": ("BF16", (32, 64)),
    f"{_LAYER}self_attn.v_proj.weight": ("BF16", (32, 64)),
    f"{_LAYER}self_attn.o_proj.weight": ("BF16", (64, 64)),
    f"{_LAYER}mlp.gate_proj.weight": ("BF16", (32, 64)),
    f"{_LAYER}mlp.up_proj.weight": ("BF16", (32, 64)),
    f"{_LAYER}mlp.down_proj.weight": ("BF16", (64, 32)),
}


def header(shapes: Shapes) -> dict[str, Any]:
    """The header of a safetensors file of tensors one behind the other."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, (dtype, shape) in shapes.items():
        end = at + _BYTES[dtype] * math.prod(shape)
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    return entries


def safetensors(shapes: Shapes, fill: bytes = b"\0") -> bytes:
    """The whole file, with every byte the same."""
    entries = header(shapes)
    size = max((entry["data_offsets"][1] for name, entry in entries.items() if name != "__metadata__"), default=0)
    return framed(text(entries), fill * size)


def text(value: object) -> bytes:
    """JSON; what is nested deeper than Python writes stands for what is nested deeper than it reads."""
    try:
        return json.dumps(value).encode()
    except RecursionError:
        return b"[" * 5000


def tokenizer() -> dict[str, Any]:
    """tokenizer.json: all bytes, three merges, two special tokens, split as Llama 3 splits."""
    structure = STRUCTURES["llama-bpe"]
    tokens = [byte_text(bytes([byte])) for byte in range(256)] + ["".join(pair) for pair in _MERGES]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(len(tokens) + number, token) for number, token in enumerate(_SPECIAL)],
        "normalizer": structure.normalizer,
        "pre_tokenizer": structure.pre_tokenizer,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": _SPECIAL[0], "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
            ],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {_SPECIAL[0]: {"id": _SPECIAL[0], "ids": [ROWS - 2], "tokens": [_SPECIAL[0]]}},
        },
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,
            "vocab": {token: number for number, token in enumerate(tokens)},
            "merges": [list(pair) for pair in _MERGES],
        },
    }


@cache
def _tokenizer() -> bytes:
    return text(tokenizer())


def _added(number: int, content: str) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": content, **flags, "special": True}


TOKENIZER_CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": _SPECIAL[0],
    "eos_token": _SPECIAL[1],
    "added_tokens_decoder": {str(ROWS - 2 + at): {**_added(0, one)} for at, one in enumerate(_SPECIAL)},
    "chat_template": "{% for message in messages %}{{ message.content }}<|eot_id|>{% endfor %}",
    "model_max_length": 128,
}
GENERATION = {"bos_token_id": ROWS - 2, "eos_token_id": [ROWS - 1], "temperature": 0.6, "top_p": 0.9}
SPECIAL_TOKENS = {"bos_token": _SPECIAL[0], "eos_token": {"content": _SPECIAL[1], "lstrip": False}}


def model(**files: bytes | None) -> dict[str, bytes]:
    """A model's files; others in their places, by name with ``_`` for ``.``, or None for none."""
    found: dict[str, bytes | None] = {
        "config.json": text(CONFIG),
        "generation_config.json": text(GENERATION),
        "model.safetensors": safetensors(SHAPES),
        "tokenizer.json": _tokenizer(),
        "tokenizer_config.json": text(TOKENIZER_CONFIG),
        "special_tokens_map.json": text(SPECIAL_TOKENS),
    }
    for name, data in files.items():
        stem, _, suffix = name.rpartition("_")
        found[f"{stem}.{suffix}"] = data
    return {name: data for name, data in found.items() if data is not None}
