"""The families whose vision part becomes an mmproj file, one file each.

To add one, write its file and add its name here. A file is imported when its family is needed.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from quantkit.arch.families import saved_class
from quantkit.errors import ArchitectureError

if TYPE_CHECKING:
    from quantkit.arch.vision.base import VisionTower

# The family, as its file and its name there, by the name in "architectures" of config.json.
TOWERS: Mapping[str, str] = {
    "Gemma3ForConditionalGeneration": "gemma3.TOWER",
    "Gemma4ForConditionalGeneration": "gemma4.TOWER",
    "Gemma4UnifiedForConditionalGeneration": "gemma4_unified.TOWER",
    "Idefics3ForConditionalGeneration": "idefics3.TOWER",
    "InternVLChatModel": "internvl.TOWER",
    "InternVLForConditionalGeneration": "internvl_hf.TOWER",
    "LlavaForConditionalGeneration": "pixtral.TOWER",
    "Mistral3ForConditionalGeneration": "pixtral.TOWER",
    "Qwen2VLForConditionalGeneration": "qwen2vl.QWEN2",
    "Qwen2_5_VLForConditionalGeneration": "qwen2vl.QWEN2_5",
    "Qwen3VLForConditionalGeneration": "qwen3vl.QWEN3",
    "Qwen3VLMoeForConditionalGeneration": "qwen3vl.QWEN3",
    "Qwen3_5ForConditionalGeneration": "qwen3vl.QWEN3_5",
    "Qwen3_5MoeForConditionalGeneration": "qwen3vl.QWEN3_5",
    "SmolVLMForConditionalGeneration": "idefics3.TOWER",
}


def find_tower(config: Mapping[str, Any], where: str) -> VisionTower:
    """The vision family of a config.

    Raises:
        ArchitectureError: the model does not see, or llama.cpp or quantkit does not have its vision part.
    """
    name = saved_class(config) or "a model without a class"
    if not isinstance(config.get("vision_config"), Mapping):
        raise ArchitectureError(
            f"{where}: {name} has no vision_config: the model does not see", hint="leave out --mmproj"
        )
    if name not in TOWERS:
        raise ArchitectureError(
            f"{where}: the vision part of {name} is not supported",
            hint="leave out --mmproj to build the language model alone; supported with it: "
            + ", ".join(sorted(TOWERS)),
        )
    file, _, tower = TOWERS[name].partition(".")
    found: VisionTower = getattr(importlib.import_module(f"quantkit.arch.vision.{file}"), tower)
    return found
