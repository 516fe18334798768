"""Checks that an adapter file has everything that its config says was trained in full.

PEFT itself loads what it finds and silently keeps the base's values for the rest.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from quantkit.adapter.changes import Change, LowRank, Replace
from quantkit.adapter.config import method
from quantkit.adapter.hints import RESAVE_HINT
from quantkit.adapter.trainer_heads import is_head_of_training
from quantkit.errors import AdapterError


def check_complete(
    path: Path, config: Mapping[str, Any], changes: Mapping[str, Sequence[Change]], base: Collection[str]
) -> list[str]:
    """Check that the modules of ``modules_to_save`` and the biases of ``bias`` are in the file.

    PEFT passes over a name that no module of the model has, so nothing of it was trained.

    Args:
        path: the adapter's folder.
        config: ``adapter_config.json``, checked.
        changes: by the tensor's name in training.
        base: names in training of the base's tensors.

    Returns:
        A note about the names that no module has.

    Raises:
        AdapterError: a module or a bias is not in the file.
    """
    missing = []
    replaced = {name for name, ops in changes.items() if isinstance(ops[0], Replace)}
    for saved in config.get("modules_to_save") or ():
        if is_head_of_training(config, saved, base):
            continue
        if not any(re.match(rf"(.*\.)?{re.escape(saved)}\.", name) for name in base):
            missing.append(repr(saved))
        elif not any(re.fullmatch(rf"(.*\.)?{re.escape(saved)}(\..*)?\.(weight|bias)", name) for name in replaced):
            raise AdapterError(
                f"{path}: modules_to_save names {saved!r}, but its weights are not in the file", hint=RESAVE_HINT
            )
    which = config.get("bias") if method(config) == "LORA" else "none"
    for name in base:
        weight = f"{name.removesuffix('bias')}weight"
        trained = which == "all" or (
            which == "lora_only" and any(isinstance(change, LowRank) for change in changes.get(weight, ()))
        )
        if name.endswith(".bias") and trained and name not in replaced:
            raise AdapterError(f"{path}: bias is {which!r}, but {name!r} is not in the file", hint=RESAVE_HINT)
    if not missing:
        return []
    names = ", ".join(missing)
    return [f"{path.name}: modules_to_save names {names}, which the model does not have, so nothing of it was trained"]
