"""Qwen2 and Qwen2.5 (dense)."""

from __future__ import annotations

from quantkit.arch.base import Architecture, Config, Generated, Rule, rope
from quantkit.arch.decoder import decoder_metadata, decoder_rules
from quantkit.errors import ArchitectureError
from quantkit.gguf_header import KV


def metadata(config: Config) -> list[KV]:
    if config.get("use_sliding_window"):
        raise ArchitectureError(
            "config.json: use_sliding_window is set, which llama.cpp does not run for Qwen2",
            hint="set use_sliding_window to false if the model may attend to its whole context",
        )
    if rope(config).get("rope_type") == "llama3":
        raise ArchitectureError(
            "config.json: rope scaling 'llama3' is not supported: llama.cpp does not scale Qwen2 so",
            hint="supported for this model are linear and yarn",
        )
    return decoder_metadata("qwen2", config)


def rules(config: Config) -> list[Rule]:
    return decoder_rules(config, qkv_bias=True)


def generated(config: Config) -> list[Generated]:
    return []


ARCHITECTURE = Architecture("qwen2", ("Qwen2ForCausalLM",), metadata, rules, generated)
