"""Hints that several errors about adapters share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

BASE_HINT = "use the base model that the adapter was trained on (base_model_name_or_path in adapter_config.json)"
MERGE_HINT = "merge it with PEFT's merge_and_unload and build from the merged folder"
RESAVE_HINT = "the file is incomplete: save or download the adapter again"
MIXED_UP_HINT = "config and weights are from different trainings: use both from the same saved folder"


def with_base_name(hint: str, config: Mapping[str, Any]) -> str:
    """*hint*, with the base's name from ``adapter_config.json`` where it asks for the base."""
    name = config.get("base_model_name_or_path")
    if hint != BASE_HINT or not isinstance(name, str) or not name:
        return hint
    return hint.replace("trained on (", f"trained on, {name[:200]} (")
