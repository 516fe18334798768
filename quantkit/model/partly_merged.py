"""A merged model as a Hugging Face folder for another program: what no adapter changes stays as it is stored."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from quantkit.checkpoint.tensor_file import TensorSpec
from quantkit.files.json_file import write_json
from quantkit.ggml.types import GGMLType
from quantkit.model.hf_folder import write_beside
from quantkit.model.opened import MergedCheckpoint
from quantkit.plan.safetensors_outputs import safetensors_outputs
from quantkit.plan.values import Output, PlannedTensor

_SHARD_NBYTES = 5_000_000_000


@dataclass(frozen=True)
class PartlyMerged:
    """What such a folder consists of.

    Attributes:
        tensors: what is written: as float32 what an adapter changes or what is dequantized, in its own type what shares
            a file with that.
        outputs: the shards for them.
        kept: by name in the folder, the checkpoint's files that no adapter changes, which are linked.
    """

    tensors: tuple[PlannedTensor, ...]
    outputs: tuple[Output, ...]
    kept: Mapping[str, Path]


def partly_merged(model: MergedCheckpoint) -> PartlyMerged:
    """Plan the folder of an open model."""
    used: dict[Path, dict[str, TensorSpec]] = {path: {} for path in model.checkpoint.files}
    for name, spec in model.checkpoint.tensors.items():
        used[spec.file][name] = spec
    kept = {path: None for path, specs in used.items() if _is_kept(model, path, specs)}
    tensors = tuple(
        PlannedTensor(name, name, spec.shape, GGMLType[spec.dtype] if _is_stored(model, name) else GGMLType.F32)
        for name, spec in model.checkpoint.tensors.items()
        if spec.file not in kept
    )
    outputs = tuple(safetensors_outputs(tensors, _SHARD_NBYTES)) if tensors else ()
    return PartlyMerged(tensors, outputs, {f"model-kept-{i:05d}.safetensors": path for i, path in enumerate(kept, 1)})


def _is_stored(model: MergedCheckpoint, name: str) -> bool:
    """Whether a tensor of the merged model is in the checkpoint as such."""
    return name not in model.checkpoint.formats and not any(name in one.changes for one in model.adapters)


def _is_kept(model: MergedCheckpoint, path: Path, used: Mapping[str, TensorSpec]) -> bool:
    """Whether the tensors of a file, by their names and values, are those that the merged model *used* of it."""
    same = path.suffix == ".safetensors" and used == dict(model.checkpoint.files[path].specs)
    return same and all(_is_stored(model, name) for name in used)


def write_files_beside(model: MergedCheckpoint, plan: PartlyMerged, folder: Path) -> None:
    """Link the kept files, and write config, tokenizer and index next to the shards."""
    for name, path in plan.kept.items():
        _link(path, folder / name)
    write_beside(model, plan.outputs, folder, "f32")
    files = {name: output.file for output in plan.outputs for name in output.tensors}
    for name, path in plan.kept.items():
        files |= dict.fromkeys(model.checkpoint.files[path].specs, name)
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": files})


def _link(path: Path, to: Path) -> None:
    try:
        os.symlink(path.absolute(), to)
    except OSError:  # Windows lets few users make links
        shutil.copyfile(path, to)
