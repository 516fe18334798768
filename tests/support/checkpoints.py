"""Tiny random checkpoints in the shape of the real ones.

The values are a mixture on purpose: heavy tails, exact zeros, a row that is zero throughout, a row of one value; a
quantizer that treats an easy case differently shows it here. Everything follows from the seed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
_TORCH_NAMES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
_LLAMA_3_ROPE = {
    "factor": 8.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}


@dataclass(frozen=True)
class Kind:
    """A family of checkpoints: the settings that differ from the plain Llama 3."""

    vocabulary: str
    config: Mapping[str, Any]
    tied: bool = False
    qkv_bias: bool = False


_LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "attention_bias": False,
    "mlp_bias": False,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-05,
    "rope_theta": 500000.0,
    "rope_scaling": None,
}
_QWEN2 = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "max_position_embeddings": 32768,
    "max_window_layers": 21,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "use_sliding_window": False,
}
KINDS: dict[str, Kind] = {
    "llama3-untied": Kind("llama-bpe", _LLAMA),
    "llama3-tied": Kind("llama-bpe", {**_LLAMA, "head_dim": 32}, tied=True),
    "llama3-rope": Kind("llama-bpe", {**_LLAMA, "max_position_embeddings": 131072, "rope_scaling": _LLAMA_3_ROPE}),
    # No explicit base of the rotary embedding and a short context, as in the configs of Llama 2.
    "llama2": Kind(
        "llama-bpe",
        {k: v for k, v in _LLAMA.items() if k not in ("rope_theta", "mlp_bias")} | {"max_position_embeddings": 4096},
    ),
    "llama-linear-rope": Kind("llama-bpe", {**_LLAMA, "rope_scaling": {"type": "linear", "factor": 2.0}}),
    "llama-biases": Kind("llama-bpe", {**_LLAMA, "attention_bias": True, "mlp_bias": True}, qkv_bias=True),
    "qwen2": Kind("qwen2", _QWEN2, qkv_bias=True),
    "qwen2-tied": Kind("qwen2", _QWEN2, tied=True, qkv_bias=True),
    "qwen2-yarn": Kind(
        "qwen2",
        {**_QWEN2, "rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 32768, "type": "yarn"}},
        qkv_bias=True,
    ),
}


def make_checkpoint(
    folder: Path,
    kind: str,
    *,
    vocabulary: Path,
    dtype: str = "bf16",
    shards: int = 1,
    binary: bool = False,
    style: str = "4",
    layers: int = 2,
    hidden: int = 256,
    intermediate: int = 512,
    heads: int = 8,
    kv_heads: int = 4,
    padding: int = 0,
    seed: int = 0,
    config: Mapping[str, Any] | None = None,
    generation: Mapping[str, Any] | None = None,
) -> Path:
    """Write a checkpoint.

    Args:
        folder: created; must not exist.
        kind: one of ``KINDS``.
        vocabulary: folder with tokenizer.json and tokenizer_config.json, copied into the checkpoint.
        dtype: ``bf16``, ``f16`` or ``f32``.
        shards: files the weights are spread over, with an index when more than one.
        binary: pytorch_model.bin instead of safetensors.
        style: ``4``: ``torch_dtype``, ``rope_theta``, ``rope_scaling``; ``5``: ``dtype``, ``rope_parameters``, as
            transformers 4 and 5 write them.
        layers, hidden, intermediate, heads, kv_heads: the shape.
        padding: rows of the embedding beyond the tokenizer's last id.
        seed: of the values.
        config: further settings of config.json, over the kind's.
        generation: generation_config.json, over the default with several end tokens.
    """
    family = KINDS[kind]
    folder.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(vocabulary / name, folder / name)
    ids = token_ids(vocabulary)
    rows = max(ids.values()) + 1 + padding
    settings = {
        **family.config,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "num_key_value_heads": kv_heads,
        "initializer_range": 0.02,
        "tie_word_embeddings": family.tied,
        "torch_dtype": _TORCH_NAMES[dtype],
        "use_cache": True,
        "vocab_size": rows,
        **_config_ids(family.vocabulary, ids),
        **(config or {}),
    }
    _write_json(folder / "config.json", _style_5(settings) if style == "5" else settings)
    _write_json(folder / "generation_config.json", {**_generation(family.vocabulary, ids), **(generation or {})})
    tensors = random_tensors(family, settings, DTYPES[dtype], seed)
    write_weights(folder, tensors, shards=shards, binary=binary)
    return folder


def token_ids(vocabulary: Path) -> dict[str, int]:
    """Every token of a tokenizer and its id."""
    tokenizer = json.loads((vocabulary / "tokenizer.json").read_text(encoding="utf-8"))
    return {**tokenizer["model"]["vocab"], **{token["content"]: token["id"] for token in tokenizer["added_tokens"]}}


def random_tensors(family: Kind, settings: Mapping[str, Any], dtype: torch.dtype, seed: int) -> dict[str, torch.Tensor]:
    """The tensors of a model of these settings, under their Hugging Face names."""
    generator = torch.Generator().manual_seed(seed)
    hidden, inner, rows = settings["hidden_size"], settings["intermediate_size"], settings["vocab_size"]
    size = settings.get("head_dim") or hidden // settings["num_attention_heads"]
    queries, keys = settings["num_attention_heads"] * size, settings["num_key_value_heads"] * size
    mlp_bias, output_bias = settings.get("mlp_bias", False), settings.get("attention_bias", False)
    linears = {
        "self_attn.q_proj": (queries, hidden, family.qkv_bias),
        "self_attn.k_proj": (keys, hidden, family.qkv_bias),
        "self_attn.v_proj": (keys, hidden, family.qkv_bias),
        "self_attn.o_proj": (hidden, queries, output_bias),
        "mlp.gate_proj": (inner, hidden, mlp_bias),
        "mlp.up_proj": (inner, hidden, mlp_bias),
        "mlp.down_proj": (hidden, inner, mlp_bias),
    }
    tensors = {"model.embed_tokens.weight": _matrix((rows, hidden), generator)}
    for i in range(settings["num_hidden_layers"]):
        for name, (outputs, inputs, bias) in linears.items():
            tensors[f"model.layers.{i}.{name}.weight"] = _matrix((outputs, inputs), generator)
            if bias:
                tensors[f"model.layers.{i}.{name}.bias"] = 0.1 * torch.randn(outputs, generator=generator)
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"model.layers.{i}.{name}.weight"] = 1 + 0.1 * torch.randn(hidden, generator=generator)
    tensors["model.norm.weight"] = 1 + 0.1 * torch.randn(hidden, generator=generator)
    if not settings["tie_word_embeddings"]:
        tensors["lm_head.weight"] = _matrix((rows, hidden), generator)
    return {name: tensor.to(dtype).contiguous() for name, tensor in tensors.items()}


def write_weights(folder: Path, tensors: Mapping[str, torch.Tensor], *, shards: int = 1, binary: bool = False) -> None:
    """Write weights as transformers does: one file, or numbered shards with an index."""
    stem, suffix = ("pytorch_model", "bin") if binary else ("model", "safetensors")
    names = list(tensors)
    weight_map: dict[str, str] = {}
    for shard in range(shards):
        chosen = {name: tensors[name] for name in names[shard::shards]}
        file = f"{stem}.{suffix}" if shards == 1 else f"{stem}-{shard + 1:05d}-of-{shards:05d}.{suffix}"
        if binary:
            torch.save(chosen, folder / file)
        else:
            save_file(chosen, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(chosen, file)
    if shards > 1:
        size = sum(tensor.nbytes for tensor in tensors.values())
        _write_json(
            folder / f"{stem}.{suffix}.index.json", {"metadata": {"total_size": size}, "weight_map": weight_map}
        )


def _matrix(shape: tuple[int, int], generator: torch.Generator) -> torch.Tensor:
    values = torch.randn(shape, generator=generator) / shape[1] ** 0.5
    # A few rows in a hundred weights far out of the others' range, a few exact zeros.
    values *= torch.exp(0.7 * torch.randn(shape[0], 1, generator=generator))
    values *= torch.where(torch.rand(shape, generator=generator) < 0.01, 8.0, 1.0)
    values[torch.rand(shape, generator=generator) < 0.03] = 0.0
    values[3] = 0.0
    values[5] = 0.125
    return values


def _config_ids(vocabulary: str, ids: Mapping[str, int]) -> dict[str, int]:
    if vocabulary == "llama-bpe":
        return {"bos_token_id": ids["<|begin_of_text|>"], "eos_token_id": ids["<|eot_id|>"]}
    return {"bos_token_id": ids["<|endoftext|>"], "eos_token_id": ids["<|im_end|>"]}


def _generation(vocabulary: str, ids: Mapping[str, int]) -> dict[str, Any]:
    if vocabulary == "llama-bpe":
        ends, bos = ["<|end_of_text|>", "<|eot_id|>"], "<|begin_of_text|>"
    else:
        ends, bos = ["<|im_end|>", "<|endoftext|>"], "<|endoftext|>"
    return {
        "bos_token_id": ids[bos],
        "eos_token_id": [ids[text] for text in ends],
        "do_sample": True,
        "temperature": 0.6,
        "top_p": 0.9,
    }


def _style_5(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The same settings as transformers 5 writes them."""
    moved = ("torch_dtype", "rope_theta", "rope_scaling")
    rope = {**(settings.get("rope_scaling") or {"rope_type": "default"})}
    if "type" in rope:
        rope["rope_type"] = rope.pop("type")
    if "rope_theta" in settings:
        rope["rope_theta"] = settings["rope_theta"]
    return {
        **{key: value for key, value in settings.items() if key not in moved},
        "dtype": settings["torch_dtype"],
        "rope_parameters": rope,
    }


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")
