"""The error for a quantized checkpoint that cannot be dequantized."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quantkit.errors import CheckpointError

_FITTED = (
    "this method fits its integers to the layers' inputs, so they are not rounded weights, and merging into them would "
    "not give the model that was trained"
)
_UNREAD = "quantkit cannot read this format"
_METHODS_THAT_FIT = frozenset({"aqlm", "auto-round", "awq", "gptq", "quip", "spqr", "vptq"})

# Metadata of a model card: the lines between two lines of three dashes; base_model is a name or a list of names.
_FRONT_MATTER = re.compile(r"\A---\r?\n(.*?)\r?\n---\s*$", re.DOTALL | re.MULTILINE)
_BASE_MODEL = re.compile(r"""^base_model:\s*(?:-\s*)?["']?([\w.-]+/[\w.-]+)""", re.MULTILINE)


def refusal(path: Path, config: Mapping[str, Any], method: str) -> CheckpointError:
    """The error for a checkpoint that is quantized in a format that cannot be dequantized.

    Args:
        path: the checkpoint's folder.
        config: its config.json.
        method: ``quant_method``, with more details if they are needed to name the format.
    """
    reason = _FITTED if method.lower() in _METHODS_THAT_FIT else _UNREAD
    original = original_model(path, config)
    return CheckpointError(
        f"{path}: the weights are already quantized ({method}): {reason}",
        hint="use the bf16 or f16 checkpoint that it was made from" + (f": {original}" if original else ""),
    )


def original_model(path: Path, config: Mapping[str, Any]) -> str:
    """The model that the checkpoint says it was made from; empty if it does not say."""
    if isinstance(named := config.get("base_model"), str):
        return named
    try:
        card = (path / "README.md").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
    front = _FRONT_MATTER.match(card)
    found = _BASE_MODEL.search(front[1]) if front else None
    return found[1] if found else ""
