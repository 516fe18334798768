"""A merged model as a Hugging Face folder: safetensors shards, index, and the base model's config and tokenizer."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from quantkit.checkpoint.dtypes import CONFIG_NAMES
from quantkit.checkpoint.folder import Checkpoint
from quantkit.checkpoint.known_files import known
from quantkit.checkpoint.tensor_file import TensorSpec
from quantkit.files.json_file import write_json
from quantkit.ggml.types import UNQUANTIZED, GGMLType
from quantkit.hub.tokenizer_files import is_tokenizer_file
from quantkit.model.opened import MergedCheckpoint
from quantkit.model.tied_embeddings import untied_config
from quantkit.model.tokenizer_copy import write_tokenizer
from quantkit.plan.values import Output, PlannedTensor

# A merged folder gets all files of the base except these: weights, their indexes, and files that are written anew;
# and except what a build refuses, or passes over as another format or training state.
_NOT_CARRIED = (
    *("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf", "*.h5", "*.msgpack", "*.onnx", "*.ckpt", "*.index.json"),
    *("adapter_config.json", "hf_quant_config.json", ".*"),
)


def hf_tensors(model: MergedCheckpoint, dtype: str) -> tuple[PlannedTensor, ...]:
    """All tensors of the checkpoint, with their names and layout unchanged.

    Args:
        model: the open model.
        dtype: ``bf16``, ``f16``, ``f32``, or ``auto`` to keep each tensor's type.
    """
    return tuple(
        PlannedTensor(
            name, name, spec.shape, _own_type(model.checkpoint, spec) if dtype == "auto" else UNQUANTIZED[dtype]
        )
        for name, spec in model.checkpoint.tensors.items()
    )


def hf_notes(model: MergedCheckpoint, dtype: str) -> tuple[str, ...]:
    """Notes for the user about the types that :func:`hf_tensors` chooses."""
    if dtype != "auto" or not model.checkpoint.formats:
        return ()
    label = _type_of_config(model.checkpoint).label
    return (f"the dequantized tensors are written as {label}; use --dtype f32 to keep every bit",)


def _own_type(checkpoint: Checkpoint, spec: TensorSpec) -> GGMLType:
    """The type that a tensor is stored in; for a dequantized tensor, the type of the model before quantization."""
    if spec.name in checkpoint.formats:
        return _type_of_config(checkpoint)
    return GGMLType[spec.dtype]


def _type_of_config(checkpoint: Checkpoint) -> GGMLType:
    """The type that config.json names; f32, which can represent every value, if it names no supported type."""
    named = checkpoint.config.get("dtype") or checkpoint.config.get("torch_dtype")
    return next((UNQUANTIZED[label] for label, name in CONFIG_NAMES.items() if name == named), GGMLType.F32)


def write_beside(model: MergedCheckpoint, outputs: Sequence[Output], folder: Path, dtype: str) -> None:
    """Write the config, the tokenizer and the index next to the shards."""
    for entry in sorted(model.checkpoint.path.iterdir()):
        row = known(entry.name, "model")
        carried = not any(entry.match(pattern) for pattern in _NOT_CARRIED) and (
            row is None or row.role in ("read", "harmless")
        )
        if carried and not is_tokenizer_file(entry.name) and entry.is_file():
            shutil.copyfile(entry, folder / entry.name)
    write_tokenizer(model.tokenizer, folder)
    config = dict(model.checkpoint.config)
    if dtype != "auto":
        config.pop("torch_dtype", None)
        config["dtype"] = CONFIG_NAMES[dtype]
    if model.untied:
        config = untied_config(config)
    write_json(folder / "config.json", config)
    if len(outputs) > 1:
        total = sum(slot.nbytes for output in outputs for slot in output.tensors.values())
        weight_map = {name: output.file for output in outputs for name in output.tensors}
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_json(folder / "model.safetensors.index.json", index)
