"""``quantkit inspect``: describes a checkpoint, an adapter, a GGUF file or a package in plain values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from quantkit.adapter.folder import adapter_files
from quantkit.arch.families import saved_class
from quantkit.checkpoint.account import account
from quantkit.checkpoint.file_entry import SHOWN
from quantkit.checkpoint.folder import open_checkpoint
from quantkit.checkpoint.known_files import Place
from quantkit.checkpoint.open_file import open_tensor_file
from quantkit.checkpoint.other_formats import give_hint
from quantkit.checkpoint.tensor_file import TensorSpec
from quantkit.errors import AdapterError, QuantkitError
from quantkit.files.json_file import read_json
from quantkit.files.visible import visible
from quantkit.gguf.header import Header, file_type_name
from quantkit.gguf.kv import KVType
from quantkit.gguf.model import read_model
from quantkit.gguf.vectors import narrow_vectors
from quantkit.hub.fetch import local_folder
from quantkit.jobs.arguments import SourceInput, read_source
from quantkit.jobs.inspect_package import inspect_package
from quantkit.package.manifest import PACKAGE_MARK
from quantkit.plan.values import count_elements
from quantkit.system.progress import Reporter
from quantkit.system.shell import command

_GIVE = "give a model folder, an adapter folder, a package or a .gguf file"


def inspect(source: SourceInput, *, reporter: Reporter | None = None) -> dict[str, Any]:
    """Describe a checkpoint, an adapter, a GGUF file or a package. No weight is read.

    Args:
        source: its path; or a hub id, which is downloaded.
        reporter: hears of the download.

    Returns:
        ``kind`` (``checkpoint``, ``adapter``, ``gguf`` or ``package``), ``path``, and the values of that kind;
        ``tensors`` lists name, type and shape.

    Raises:
        QuantkitError: it is none of these, or damaged.
    """
    path = local_folder(read_source("source", source), "any", reporter or Reporter())
    if path.is_file():
        return _gguf(path)
    if (path / "adapter_config.json").is_file() and not (path / "config.json").is_file():
        return _adapter(path)
    if path.is_dir() and (path / "config.json").is_file():
        return _checkpoint(path)
    if PACKAGE_MARK.is_on(path):
        return inspect_package(path)
    if files := visible(path, "*.gguf") if path.is_dir() else []:
        raise QuantkitError(
            f"{path}: a folder with GGUF files, not a checkpoint, an adapter or a package",
            hint=f"see what is in one: {command('quantkit', 'inspect', files[0])}",
        )
    if path.is_dir():
        raise QuantkitError(
            f"{path}: not a checkpoint (config.json) or an adapter (adapter_config.json)",
            hint=give_hint(path, "config.json", give_hint(path, "adapter_config.json", _GIVE)),
        )
    raise QuantkitError(f"{path}: no such file or folder", hint=_GIVE)


def _account(path: Path, place: Place) -> list[dict[str, str]]:
    """Every name in the folder, and what a build makes of it."""
    return [
        {"name": entry.name, "role": SHOWN[entry.role], "what": entry.what}
        | ({"hint": entry.hint} if entry.role == "refused" else {})
        for entry in account(path, place)
    ]


def _specs(specs: Iterable[TensorSpec]) -> list[dict[str, Any]]:
    return [{"name": spec.name, "type": spec.dtype, "shape": list(spec.shape)} for spec in specs]


def _checkpoint(path: Path) -> dict[str, Any]:
    with open_checkpoint(path) as checkpoint:
        specs = list(checkpoint.tensors.values())
        config = checkpoint.config
        return {
            "kind": "checkpoint",
            "path": str(path),
            "architecture": saved_class(config),
            "files": sorted({spec.file.name for spec in specs}),
            "parameters": sum(count_elements(spec.shape) for spec in specs),
            "size": checkpoint.nbytes,
            "types": dict(Counter(checkpoint.formats.get(spec.name, spec.dtype) for spec in specs)),
            "vocabulary": config.get("vocab_size"),
            "context_length": config.get("max_position_embeddings"),
            "tied": bool(config.get("tie_word_embeddings")),
            "account": _account(path, "model"),
            "tensors": _specs(specs),
        }


def _adapter(path: Path) -> dict[str, Any]:
    config = read_json(path / "adapter_config.json")
    files = adapter_files(path)
    if not files:
        raise AdapterError(f"{path}: adapter_model.safetensors is missing", hint="download the adapter's weights")
    file = open_tensor_file(files[0], AdapterError)
    try:
        specs = list(file.specs.values())
    finally:
        file.close()
    return {
        "kind": "adapter",
        "path": str(path),
        "method": config.get("peft_type"),
        "base": config.get("base_model_name_or_path"),
        "rank": config.get("r"),
        "alpha": config.get("lora_alpha", config.get("alpha")),
        "rslora": bool(config.get("use_rslora")),
        "targets": config.get("target_modules"),
        "modules_to_save": config.get("modules_to_save") or [],
        "files": [files[0].name],
        "account": _account(path, "adapter"),
        "parameters": sum(count_elements(spec.shape) for spec in specs),
        "tensors": _specs(specs),
    }


def _gguf(path: Path) -> dict[str, Any]:
    model = read_model(path)
    header = model.header
    infos = list(header.tensors.values())
    # The arrays of a vocabulary have hundreds of thousands of entries: their lengths are enough.
    metadata = {
        key: f"{len(entry.value)} values" if entry.type is KVType.ARRAY and len(entry.value) > 16 else entry.value
        for key, entry in header.metadata.items()
    }
    return {
        "kind": "gguf",
        "path": str(path),
        **({"files": [file.name for file in model.files]} if len(model.files) > 1 else {}),
        "architecture": header.value("general.architecture"),
        **(_lora(header) if header.value("general.type") == "adapter" else {"file_type": file_type_name(header)}),
        "parameters": sum(count_elements(info.shape) for info in infos),
        "size": model.nbytes,
        "types": dict(Counter(info.type.label for info in infos)),
        **({"problem": f"{narrow}; llama.cpp aborts unless they are f32"} if (narrow := narrow_vectors(infos)) else {}),
        "metadata": metadata,
        "tensors": [{"name": info.name, "type": info.type.label, "shape": list(info.shape)} for info in infos],
    }


def _lora(header: Header) -> dict[str, Any]:
    """Describe a LoRA file for llama.cpp, which stands for ``W + alpha / rank * B @ A`` for each of its matrices."""
    ranks = [info.shape[-1] for name, info in header.tensors.items() if name.endswith(".lora_b")]
    return {
        "adapter": header.value("adapter.type"),
        "alpha": header.value("adapter.lora.alpha"),
        "ranks": sorted(set(ranks)),
        "matrices": len(ranks),
    }
