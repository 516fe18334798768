"""manifest.json: what went in, what came out, and with which versions.

It carries no time and no absolute path: the same inputs give the same manifest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from quantkit.chat_format import ChatFormat
from quantkit.plan import Output
from quantkit.tensor_file import TensorSpec

SCHEMA = 1
_LIBRARIES = ("torch", "numpy", "llama-cpp-python")


def output_entry(output: Output, digests: Mapping[str, str]) -> dict[str, Any]:
    """One GGUF file: its size, and each tensor's type and sha256."""
    return {
        "file": output.file,
        "quant": output.label,
        "size": output.nbytes,
        "tensors": {
            name: {"type": place.type.label, "sha256": digests[name]}
            | ({"reason": place.reason} if place.reason else {})
            for name, place in output.tensors.items()
        },
    }


def input_files(specs: Iterable[TensorSpec]) -> list[dict[str, Any]]:
    """The weight files that were read, with their sizes."""
    files = sorted({spec.file for spec in specs})
    return [{"file": file.name, "size": file.stat().st_size} for file in files]


def text_files(files: Sequence[Path]) -> list[dict[str, Any]]:
    """The package's text files, with sizes and sha256."""
    return [
        {"file": file.name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for file in files
        for data in (file.read_bytes(),)
    ]


def chat_entry(chat: ChatFormat, system: str | None, parameters: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """How to talk to the model, for ``quantkit chat``."""
    settings: dict[str, Any] = {}
    for key, value in parameters:
        if key == "stop":
            settings.setdefault("stop", []).append(value)
        else:
            settings[key] = value
    return {"template": chat.name, "system": system, "parameters": settings, "stops": list(chat.stops)}


def versions() -> dict[str, str]:
    """quantkit's version and those of the libraries that decide the bytes."""
    from quantkit import __version__

    found = {"quantkit": __version__}
    for library in _LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            found[library] = "unknown"
    return found
