"""The supported model families: one file each, three answers.

An :class:`Architecture` says which GGUF metadata a config becomes, which GGUF tensor each tensor of the checkpoint
becomes (with the shape it must have), and how its rows are laid out. To add a family: write its file, and name it in
``_MODULES``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantkit.arch import llama, qwen2
from quantkit.arch.base import Architecture, Rule
from quantkit.errors import ArchitectureError

__all__ = ["ARCHITECTURES", "Architecture", "Rule", "find_architecture", "is_supported"]

_MODULES = (llama, qwen2)

# By the name in config.json's "architectures".
ARCHITECTURES: dict[str, Architecture] = {
    name: module.ARCHITECTURE for module in _MODULES for name in module.ARCHITECTURE.hf_names
}


def is_supported(config: Mapping[str, Any]) -> bool:
    """Whether :func:`find_architecture` knows the architecture of this config."""
    return _named(config) in ARCHITECTURES


def _named(config: Mapping[str, Any]) -> str | None:
    names = config.get("architectures")
    return str(names[0]) if isinstance(names, list) and names else None


def find_architecture(config: Mapping[str, Any], where: str) -> Architecture:
    """The architecture a config names.

    Raises:
        ArchitectureError: none, or one that is not supported; with the list of those that are.
    """
    name = _named(config)
    supported = ", ".join(sorted(ARCHITECTURES))
    if name is None:
        raise ArchitectureError(f"{where}: names no architecture", hint=f"supported architectures: {supported}")
    if name not in ARCHITECTURES:
        raise ArchitectureError(
            f"{where}: architecture {name!r} is not supported", hint=f"supported architectures: {supported}"
        )
    return ARCHITECTURES[name]
