"""GLM-4.5V and 4.6V, the language model: GLM-4.5 with M-RoPE, whose sections follow each other."""

from __future__ import annotations

from quantkit.arch import glm4_moe
from quantkit.arch.base import Architecture, Config, require
from quantkit.arch.class_defaults import CLASS_DEFAULTS
from quantkit.arch.mrope import plain_rope, sections
from quantkit.arch.mtp import GLM
from quantkit.arch.rope import rotated
from quantkit.gguf.kv import KV

_HALF = 0.5


def metadata(config: Config) -> list[KV]:
    require(config, "use_qk_norm", False)
    plain = plain_rope(config, _HALF)
    return [*glm4_moe.metadata(plain), *sections("glm4moe", config, rotated(plain), interleaved=False)]


ARCHITECTURE = Architecture(
    "glm4moe",
    metadata,
    glm4_moe.rules,
    vocabulary=glm4_moe.VOCABULARY,
    defaults=CLASS_DEFAULTS["glm4v_moe_text"],
    mtp=GLM,
)
