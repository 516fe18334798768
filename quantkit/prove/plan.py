"""How a model will be judged, and what that takes: from headers, before any weight is read, and without torch."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from quantkit.adapter.config import method
from quantkit.adapter.resized import has_row_for_each_token, vocabulary_rows
from quantkit.checkpoint.folder import open_checkpoint
from quantkit.checkpoint.open_file import open_tensor_file
from quantkit.checkpoint.tensor_file import TensorSpec
from quantkit.errors import AdapterError
from quantkit.files.json_file import read_json
from quantkit.plan.values import count_elements
from quantkit.prove.judged import Judged

ADAPTER_CONFIG = "adapter_config.json"
# Settings with which an adapter's change is not a sum that PEFT can weigh, or add to another's.
_NOT_A_SUM = ("modules_to_save", "trainable_token_indices", "use_dora")
_LAYER = re.compile(r"(.*\.(?:layers|h)\.\d+)\.")
# The interpreter with torch, transformers and PEFT; measured.
_LIBRARIES_NBYTES = 700_000_000
# Positions of the conversations of verify (370 to 460 with usual vocabularies), and what a core computes in a second
# with transformers; llama.cpp is two to three times as fast. Measured with 8 billion weights.
_POSITIONS, _PER_SECOND = 500, 30e9


@dataclass(frozen=True)
class ProofPlan:
    """What a proof takes.

    Attributes:
        by_layer: whether the layers are loaded one at a time; without, all weights are held in float32.
        memory: bytes at its peak, about.
        disk: bytes of logits in the folder for temporary files, about.
        operations: multiplications and additions of one side, about.
        files: how many are proven.
    """

    by_layer: bool
    memory: int
    disk: int
    operations: float
    files: int

    def seconds(self, threads: int) -> float:
        """Seconds on the processor, about: transformers once, llama.cpp with each file in half the time."""
        return (1 + self.files / 2) * self.operations / (threads * _PER_SECOND)


def plan_proof(judged: Judged, files: int = 1) -> ProofPlan:
    """Plan a proof.

    Args:
        judged: what is judged.
        files: how many files are proven.

    Raises:
        AdapterError: PEFT cannot apply these adapters unmerged.
        QuantkitError: a folder is broken.
    """
    check_sums(judged)
    with open_checkpoint(judged.model) as checkpoint:
        tensors = checkpoint.tensors
        rows = vocabulary_rows(tensors) or 0
        by_layer = not needs_whole_model(judged, rows)
        units: Counter[str] = Counter()
        for name, spec in tensors.items():
            layer = _LAYER.match(name)
            units[layer[1] if layer else name] += 4 * count_elements(spec.shape)
    held = 2 * max(units.values()) if by_layer else sum(units.values())
    weights = sum(units.values()) // 4
    disk, operations = 2 * 4 * _POSITIONS * rows, 2.0 * weights * _POSITIONS
    return ProofPlan(by_layer, _LIBRARIES_NBYTES + held, disk, operations, files)


def needs_whole_model(judged: Judged, rows: int) -> bool:
    """Whether PEFT must see all weights at once: methods other than LoRA compute from them, and a resized vocabulary.

    Args:
        judged: what is judged.
        rows: of the base's vocabulary.
    """
    return any(
        method(read_json(folder / ADAPTER_CONFIG)) != "LORA" or resized_rows(folder) not in (None, rows)
        for folder, _ in judged.adapters
    )


def resized_rows(folder: Path) -> int | None:
    """Rows of the embedding or the head in an adapter's file; None if it has neither."""
    return next((spec.shape[0] for key, spec in _specs(folder).items() if has_row_for_each_token(_bare(key))), None)


def adapter_file(folder: Path) -> Path:
    """The file of an adapter's weights, as PEFT names it."""
    return next(
        (file for name in ("safetensors", "bin") if (file := folder / f"adapter_model.{name}").is_file()),
        folder / "adapter_model.safetensors",
    )


def _specs(folder: Path) -> Mapping[str, TensorSpec]:
    file = open_tensor_file(adapter_file(folder), AdapterError)
    try:
        return dict(file.specs)
    finally:
        file.close()


def _bare(key: str) -> str:
    return key.replace(".base_layer.", ".").replace(".modules_to_save.", ".")


def check_sums(judged: Judged) -> None:
    """Refuse what PEFT cannot apply without merging.

    Raises:
        AdapterError: naming the setting.
    """
    for folder, weight in judged.adapters:
        config = read_json(folder / ADAPTER_CONFIG)
        settings = [name for name in _NOT_A_SUM if config.get(name)]
        if method(config) != "LORA":
            settings.append(f"peft_type {method(config)}")
        if settings and (weight != 1 or len(judged.adapters) > 1):
            raise AdapterError(
                f"{folder / ADAPTER_CONFIG}: with {settings[0]}, PEFT cannot apply it unmerged "
                + ("with a weight" if weight != 1 else "next to another adapter")
                + ", so there is nothing to prove the result against",
                hint="leave out --prove; or merge one adapter at a time (quantkit merge), and prove each step",
            )
