"""Manifests for packages that no build has made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quantkit.package.manifest import Manifest, write_manifest
from quantkit.package.manifest_chat import ChatEntry
from quantkit.package.manifest_entries import ModelEntry


def put_manifest(
    folder: Path,
    *files: str,
    name: str = "m",
    system: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    stops: tuple[str, ...] = (),
) -> Path:
    """Write the manifest of GGUF files that are named ``NAME-QUANT.gguf``, and return the folder."""
    quants = [Path(file).stem.rpartition("-")[2] for file in files]
    manifest = Manifest(
        name=name,
        versions={},
        models=tuple(ModelEntry(file, quant, 0, {}, {}) for file, quant in zip(files, quants, strict=True)),
        files=(),
        chat=ChatEntry("generic", system, parameters or {}, stops),
        notes=(),
    )
    write_manifest(manifest, folder)
    return folder
