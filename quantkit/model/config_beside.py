"""The config.json that trainers such as Axolotl leave beside an adapter: the model that was trained, as it was trained.

No build needs it. It may be that of another model, or have the rotary settings with which the context was stretched.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from quantkit.arch.rope_override import TYPES
from quantkit.checkpoint.language_part import language_part
from quantkit.errors import CheckpointError
from quantkit.files.json_file import read_json
from quantkit.hub.source import source_name

# What no training changes. The size of the vocabulary may change.
_SIZES = ("model_type", "hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads")


def config_notes(adapter: Path, base: Path, config: Mapping[str, Any], metadata: Mapping[str, Any]) -> Iterator[str]:
    """Notes on what the config.json in an adapter's folder contradicts.

    Args:
        adapter: the adapter's folder.
        base: the model's folder; the same one has only one config.json.
        config: the model's config.json.
        metadata: of the GGUF files, by key.
    """
    path, name = adapter / "config.json", f"{source_name(adapter)}/config.json"
    if not path.is_file() or adapter.resolve() == base.resolve():
        return
    try:
        theirs, ours = language_part(read_json(path)), language_part(config)
    except CheckpointError as error:
        yield f"{name}: it cannot be read and is not compared ({str(error).partition(chr(10))[0]})"
        return
    for key in _SIZES:
        if key in theirs and key in ours and theirs[key] != ours[key]:
            yield (
                f"{name} is that of another model than {source_name(base)}: {key} is {str(theirs[key])[:40]} there and "
                f"{str(ours[key])[:40]} here"
            )
            return
    arch = metadata["general.architecture"]
    rope = theirs.get("rope_parameters") or theirs.get("rope_scaling")
    settings: Mapping[str, Any] = rope if isinstance(rope, Mapping) else {}
    theta = _number(theirs.get("rope_theta") or settings.get("rope_theta"))
    if theta and np.float32(theta) != np.float32(metadata.get(f"{arch}.rope.freq_base", theta)):
        yield (
            f"{name}: trained with rope_theta {theta:g}, the files have {metadata[f'{arch}.rope.freq_base']:g}: pass "
            f"--rope-theta {theta:g}"
        )
    kind, factor = settings.get("rope_type", settings.get("type")), _number(settings.get("factor"))
    built = metadata.get(f"{arch}.rope.scaling.type", "none")
    if kind in TYPES and factor > 1 and kind != built:
        yield (
            f"{name}: trained with rope scaling {kind}, the files have {built}: pass --rope-scaling {kind}:{factor:g}"
        )


def _number(value: object) -> float:
    """A finite positive number, else 0."""
    known = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e30
    return float(value) if known else 0.0  # type: ignore[arg-type]
