"""The settings of adapter_config.json that are known for the methods that quantkit merges itself: a closed list.

A newer PEFT may add a setting that changes the meaning of the factors, and code that does not know the setting would
silently compute something else. So a setting that is not in this list, and is switched on, is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quantkit.errors import AdapterError

# Of all methods (PeftConfig of PEFT 0.21).
_COMMON = frozenset(
    ["task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode"]
)
# Where LoRA is applied, and with which scale: quantkit uses these.
_USED = frozenset(
    [
        *("r", "lora_alpha", "target_modules", "exclude_modules", "target_parameters", "layers_to_transform"),
        *("layers_pattern", "rank_pattern", "alpha_pattern", "modules_to_save", "trainable_token_indices", "bias"),
        *("lora_bias", "use_rslora", "use_dora", "ensure_weight_tying", "fan_in_fan_out", "init_lora_weights"),
    ]
)
# How it was trained or initialized: these do not change the meaning of the saved factors.
_TRAINING = frozenset(
    [
        *("lora_dropout", "loftq_config", "eva_config", "corda_config", "lora_ga_config", "runtime_config"),
        *("megatron_core", "qalora_group_size", "merge_weights"),
        *("lora_dtype", "lorap_lr_ratio", "lorap_emb_lr"),  # ms-swift's
    ]
)
_TOKENS = frozenset(["token_indices", "target_modules", "init_weights"])
KNOWN = {"LORA": _COMMON | _USED | _TRAINING, "TRAINABLE_TOKENS": _COMMON | _TOKENS}


def refuse_unknown(where: Path, config: Mapping[str, Any], kind: str) -> None:
    """Check that all settings are known, for a method that quantkit merges itself.

    Args:
        where: the file, for errors.
        config: its content.
        kind: the method.

    Raises:
        AdapterError: a setting is unknown and switched on.
    """
    for key, value in config.items():
        if kind in KNOWN and value and key not in KNOWN[kind]:
            version = config.get("peft_version")
            raise AdapterError(
                f"{where}: {key} is {repr(value)[:120]}: quantkit does not know this setting, and it may change what "
                "the weights mean",
                hint=f"merge it with {f'PEFT {version}' if version else 'the PEFT that saved it'} (merge_and_unload), "
                "and build from the merged folder",
            )
