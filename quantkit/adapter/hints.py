"""Hints that several errors about adapters share."""

from __future__ import annotations

BASE_HINT = "use the base model that the adapter was trained on (base_model_name_or_path in adapter_config.json)"
MERGE_HINT = "merge it with PEFT's merge_and_unload and build from the merged folder"
RESAVE_HINT = "the file is incomplete: save or download the adapter again"
MIXED_UP_HINT = "config and weights are from different trainings: use both from the same saved folder"
