"""DeepSeek V3, V3.1 and R1, and models like them (Moonlight, Kanana 2): a sigmoid router with a bias and groups."""

from __future__ import annotations

from quantkit.arch.base import Architecture, Config, Rule, require
from quantkit.arch.class_defaults import CLASS_DEFAULTS
from quantkit.arch.deepseek2 import deepseek_metadata, deepseek_rules
from quantkit.arch.mtp import DEEPSEEK
from quantkit.gguf.kv import KV


def metadata(config: Config) -> list[KV]:
    require(config, "rope_interleave", True)
    require(config, "scoring_func", "sigmoid")
    require(config, "topk_method", "noaux_tc")
    return deepseek_metadata(config, "sigmoid")


def rules(config: Config) -> list[Rule]:
    return deepseek_rules(config, bias=True)


ARCHITECTURE = Architecture(
    "deepseek2", metadata, rules, defaults=CLASS_DEFAULTS["deepseek_v3"], takes_lora=False, mtp=DEEPSEEK
)
