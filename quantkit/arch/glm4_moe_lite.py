"""GLM-4.7-Flash: DeepSeek's attention and experts with GLM's vocabulary, and a layer that predicts one more token."""

from __future__ import annotations

from quantkit.arch.base import Architecture, Config, Rule, layers, require
from quantkit.arch.class_defaults import CLASS_DEFAULTS
from quantkit.arch.deepseek2 import deepseek_layers, deepseek_metadata, deepseek_rules
from quantkit.arch.glm4_moe import VOCABULARY
from quantkit.arch.layer_types import layer_types
from quantkit.arch.mtp import GLM
from quantkit.arch.next_tokens import next_token_layers, next_token_metadata, next_token_rules
from quantkit.errors import ArchitectureError
from quantkit.gguf.kv import KV

_DENSE, _SPARSE = "dense", "sparse"


def metadata(config: Config) -> list[KV]:
    require(config, "rope_interleave", True)
    config = _counted(config)
    deepseek = deepseek_metadata(config, "sigmoid", further=next_token_layers(config))
    return [*deepseek, *next_token_metadata("deepseek2", config)]


def _counted(config: Config) -> Config:
    """The config with the number of dense layers, which transformers lists layer by layer.

    Raises:
        ArchitectureError: the dense layers are not the first ones, or not as many as config.json says elsewhere.
    """
    usual = [_DENSE, *[_SPARSE] * (layers(config) - 1)]
    kinds = layer_types(config, (_DENSE, _SPARSE), usual, key="mlp_layer_types")
    count = kinds.count(_DENSE)
    if _DENSE in kinds[count:]:
        raise ArchitectureError("config.json: mlp_layer_types has dense layers behind others, which llama.cpp has not")
    require(config, "first_k_dense_replace", count)
    return {**config, "first_k_dense_replace": count}


def rules(config: Config) -> list[Rule]:
    config = _counted(config)
    sparse = deepseek_layers(config, bias=True)[1]
    return [
        *deepseek_rules(config, bias=True),
        *next_token_rules(config, sparse),
    ]


ARCHITECTURE = Architecture(
    "deepseek2",
    metadata,
    rules,
    vocabulary=VOCABULARY,
    defaults=CLASS_DEFAULTS["glm4_moe_lite"],
    takes_lora=False,
    mtp=GLM,
)
