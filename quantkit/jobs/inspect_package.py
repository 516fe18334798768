"""``quantkit inspect`` of a package: what its manifest says, and the default model's header."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from quantkit.gguf.model import read_model
from quantkit.package.manifest import MANIFEST, read_manifest
from quantkit.plan.values import count_elements


def inspect_package(path: Path) -> dict[str, Any]:
    """Describe a package in plain values; ``tensors`` are those of its default model.

    Raises:
        QuantkitError: the manifest or the model is missing or damaged.
    """
    manifest = read_manifest(path)
    default = read_model(path / manifest.models[0].file)
    chat, sources = manifest.chat, manifest.sources
    infos = list(default.header.tensors.values())
    return {
        "kind": "package",
        "path": str(path),
        "name": manifest.name,
        **({} if sources is None else {"model": sources.model.label}),
        **({} if sources is None else {"adapters": [adapter.label for adapter in sources.adapters]}),
        "architecture": default.value("general.architecture"),
        "parameters": sum(count_elements(info.shape) for info in infos),
        "models": [{"file": model.file, "type": model.quant, "size": model.size} for model in manifest.models],
        "files": [MANIFEST, *manifest.file_names],
        "template": chat.template,
        "system": chat.system,
        "settings": chat.settings,
        "stops": list(chat.all_stops),
        "notes": list(manifest.notes),
        "tensors": [{"name": info.name, "type": info.type.label, "shape": list(info.shape)} for info in infos],
    }
