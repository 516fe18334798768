"""A tokenizer's folder as a GGUF file without tensors, for llama.cpp and for its converter."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quantkit.arch.families import find_architecture
from quantkit.checkpoint.folder import Checkpoint
from quantkit.gguf.header import encode_header
from quantkit.gguf.kv import f32, string, u32
from quantkit.vocab.vocabulary import Vocabulary, read_vocabulary
from tests.support.vocabularies import vocabulary_rows

# The class of model each vocabulary is put under, by its name; Llama's where none is given.
ARCHITECTURES = {
    "qwen2": "Qwen2ForCausalLM",
    "qwen35": "Qwen2ForCausalLM",
    "qwen-tiktoken": "QWenLMHeadModel",
    "gemma-spm": "Gemma2ForCausalLM",
    "gemma-whole": "GemmaForCausalLM",
    "gemma-hf": "Gemma2ForCausalLM",
    "gemma-4": "Gemma4ForCausalLM",
    "phi-3": "Phi3ForCausalLM",
    "phi-3-hf": "Phi3ForCausalLM",
    "phi-4": "Phi3ForCausalLM",
    "granite": "GraniteForCausalLM",
    "olmo2": "Olmo2ForCausalLM",
    "tekken": "MistralForCausalLM",
}
_TYPES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "GraniteForCausalLM": "granite",
    "Qwen2ForCausalLM": "qwen2",
    "QWenLMHeadModel": "qwen",
    "GemmaForCausalLM": "gemma",
    "Gemma2ForCausalLM": "gemma2",
    "Gemma4ForCausalLM": "gemma4_text",
    "Phi3ForCausalLM": "phi3",
    "Olmo2ForCausalLM": "olmo2",
}
_SETTINGS: dict[str, Any] = {
    "attention_multiplier": 1.0,
    "attn_logit_softcapping": 50.0,
    "embedding_multiplier": 1.0,
    "final_logit_softcapping": 30.0,
    "head_dim": 32,
    "hidden_size": 64,
    "intermediate_size": 64,
    "layer_norm_epsilon": 1e-06,
    "logits_scaling": 1.0,
    "max_position_embeddings": 128,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "num_key_value_heads": 2,
    "original_max_position_embeddings": 128,
    "residual_multiplier": 1.0,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0,
    "sliding_window": 64,
}
_HEADER = (
    string("general.architecture", "llama"),
    u32("llama.context_length", 128),
    u32("llama.embedding_length", 64),
    u32("llama.block_count", 1),
    u32("llama.feed_forward_length", 64),
    u32("llama.attention.head_count", 2),
    f32("llama.attention.layer_norm_rms_epsilon", 1e-5),
    u32("llama.rope.dimension_count", 32),
)


def add_config(
    folder: Path, name: str, *, rows: int | None = None, generation: Mapping[str, Any] | None = None, **config: Any
) -> Checkpoint:
    """Put a config.json of the vocabulary's kind of model beside its files.

    Args:
        folder: with the tokenizer; it gets config.json and, where given, generation_config.json.
        name: of the vocabulary.
        rows: of the embedding; as many as there are ids by default.
        generation: generation_config.json.
        config: further entries of config.json.
    """
    family = ARCHITECTURES.get(name, "LlamaForCausalLM")
    size = vocabulary_rows(folder) if rows is None else rows
    settings = {"architectures": [family], "model_type": _TYPES[family], "vocab_size": size, **_SETTINGS, **config}
    (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation), encoding="utf-8")
    return Checkpoint(folder, settings, {}, {})


def read_folder(checkpoint: Checkpoint) -> Vocabulary:
    """The vocabulary of a folder that :func:`add_config` made a model's."""
    family = find_architecture(checkpoint.config, str(checkpoint.path))
    rows = checkpoint.config["vocab_size"]
    return read_vocabulary(checkpoint, rows, tokenizers=family.tokenizers, rules=family.vocabulary)


def write_gguf(vocabulary: Vocabulary, path: Path, *, name: str = "") -> Path:
    """A GGUF file with this vocabulary and no tensors, of a model of that name."""
    named = [string("general.name", name)] if name else []
    path.write_bytes(encode_header([*_HEADER, *named, *vocabulary.metadata], []))
    return path
