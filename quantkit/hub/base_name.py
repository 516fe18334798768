"""The name of the full-precision model that a quantized one was made from.

Unsloth, Qwen and others publish quantized copies of a model under its name with a suffix. An adapter that was trained
on such a copy is merged into the model without the suffix.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from quantkit.system.shell import command

_ENDINGS = re.compile(
    r"(-unsloth)?-bnb-[48]bit|-[48]-?bit|-gptq(-int[348]|-[348]-?bit)?|-awq(-int4|-4bit)?|-int[48]", re.IGNORECASE
)
# A name that needs no quoting in a command line.
_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


def full_precision_name(name: str) -> str | None:
    """``unsloth/llama-3-8b-bnb-4bit`` -> ``unsloth/llama-3-8b``; None for a name without such a suffix."""
    for match in _ENDINGS.finditer(name):
        if match.end() == len(name) and match.start():
            return name[: match.start()]
    return None


def build_hint(adapter: object, config: Mapping[str, Any], verb: str = "build") -> str:
    """The command that uses an adapter, with the base model that its adapter_config.json names."""
    named = config.get("base_model_name_or_path")
    base = "BASE_MODEL"
    if isinstance(named, str) and _NAME.fullmatch(named):
        base = full_precision_name(named) or named
    out = () if verb == "build" else ("-o", "OUT")
    return command("quantkit", verb, base, "--adapter", adapter, *out)
