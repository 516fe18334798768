"""manifest.json: what went in, what came out, and with which versions.

It carries no time and no absolute path: the same inputs give the same manifest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantkit.package.spec import PackageSpec

if TYPE_CHECKING:
    from quantkit.checkpoint.tensor_file import TensorSpec
    from quantkit.model.lora_file import AdapterFile
    from quantkit.plan.values import Output

SCHEMA = 1
_LIBRARIES = ("torch", "numpy", "llama-cpp-python")


def output_entry(outputs: Sequence[Output], digests: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """One model: its file (or first part, and all parts), its size, sha256 of headers, each tensor's type and sha256.

    Args:
        outputs: the file, or the parts of a split model.
        digests: by file, by tensor: sha256.
    """
    return {
        "file": outputs[0].file,
        **({"parts": [output.file for output in outputs]} if len(outputs) > 1 else {}),
        "quant": outputs[0].label,
        "size": sum(output.nbytes for output in outputs),
        "headers": {output.file: hashlib.sha256(output.header).hexdigest() for output in outputs},
        "tensors": {
            name: {"type": slot.type.label, "sha256": digests[output.file][name]}
            | ({"reason": slot.reason} if slot.reason else {})
            for output in outputs
            for name, slot in output.tensors.items()
        },
    }


def adapter_entry(file: AdapterFile, digests: Mapping[str, str]) -> dict[str, Any]:
    """One adapter by itself: its size, scaling, and each tensor's type and sha256."""
    return {
        "file": file.output.file,
        "adapter": file.label,
        "alpha": file.alpha,
        "size": file.output.nbytes,
        "headers": {file.output.file: hashlib.sha256(file.output.header).hexdigest()},
        "tensors": {
            name: {"type": slot.type.label, "sha256": digests[name]} for name, slot in file.output.tensors.items()
        },
    }


def input_files(specs: Iterable[TensorSpec]) -> list[dict[str, Any]]:
    """The weight files that were read, with their sizes."""
    files = sorted({spec.file for spec in specs})
    return [{"file": file.name, "size": file.stat().st_size} for file in files]


def weight_files(folder: Path) -> list[dict[str, Any]]:
    """The weight files of a folder that was read by another program."""
    files = sorted(file for file in folder.iterdir() if file.suffix in (".safetensors", ".bin"))
    return [{"file": file.name, "size": file.stat().st_size} for file in files]


def text_files(files: Sequence[Path]) -> list[dict[str, Any]]:
    """The package's text files, with sizes and sha256."""
    return [
        {"file": file.name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for file in files
        for data in (file.read_bytes(),)
    ]


def chat_entry(spec: PackageSpec) -> dict[str, Any]:
    """How to talk to the model, for ``quantkit chat``."""
    settings: dict[str, Any] = {}
    for key, value in spec.parameters:
        if key == "stop":
            settings.setdefault("stop", []).append(value)
        else:
            settings[key] = value
    return {
        "template": spec.chat.name,
        "system": spec.system,
        "parameters": settings,
        "stops": list(spec.chat.stops),
        "messages": [{"role": role, "content": text} for role, text in spec.messages],
    }


def versions(libraries: Sequence[str] = ()) -> dict[str, str]:
    """quantkit's version and those of the libraries that decide the bytes.

    Args:
        libraries: those that decide only some models' bytes.
    """
    from quantkit import __version__

    found = {"quantkit": __version__}
    for library in (*_LIBRARIES, *libraries):
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            found[library] = "unknown"
    return found
