"""Why a quantized checkpoint is not dequantized, and the way on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quantkit.errors import CheckpointError

_FITTED = (
    "its integers were fitted to the inputs of the layers, so they are not the weights rounded: a merge on them is "
    "not the model that was trained"
)
_UNREAD = "quantkit does not read this format, and a merge needs the weights it was made from"
_METHODS_THAT_FIT = frozenset({"aqlm", "auto-round", "awq", "gptq", "quip", "spqr", "vptq"})

# Metadata of a model card: lines between two of three dashes, base_model a name or a list of names.
_FRONT_MATTER = re.compile(r"\A---\r?\n(.*?)\r?\n---\s*$", re.DOTALL | re.MULTILINE)
_BASE_MODEL = re.compile(r"""^base_model:\s*(?:-\s*)?["']?([\w.-]+/[\w.-]+)""", re.MULTILINE)


def refusal(path: Path, config: Mapping[str, Any], method: str) -> CheckpointError:
    """The error for a checkpoint quantized in a way that is not dequantized.

    Args:
        path: of the checkpoint.
        config: its config.json.
        method: ``quant_method``, and what more is needed to name the format.
    """
    reason = _FITTED if method.lower() in _METHODS_THAT_FIT else _UNREAD
    original = _original(path, config)
    return CheckpointError(
        f"{path}: the weights are already quantized ({method}): {reason}",
        hint="give the bf16 or f16 checkpoint that this one was made from" + (f": {original}" if original else ""),
    )


def _original(path: Path, config: Mapping[str, Any]) -> str:
    """The model that this one says it was made from; empty when it does not say."""
    if isinstance(named := config.get("base_model"), str):
        return named
    try:
        card = (path / "README.md").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
    front = _FRONT_MATTER.match(card)
    found = _BASE_MODEL.search(front[1]) if front else None
    return found[1] if found else ""
