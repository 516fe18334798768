"""Writes a PEFT adapter: adapter_config.json, adapter_model.safetensors, and what was left of each tensor."""

from __future__ import annotations

import json
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quantkit.checkpoint.dtypes import Array
from quantkit.checkpoint.folder import Checkpoint
from quantkit.errors import CheckpointError
from quantkit.extract.pairs import Pair, Way
from quantkit.files.fileio import blocks
from quantkit.files.json_file import SCHEMA, write_json
from quantkit.files.replaceable import Mark
from quantkit.model.tied_embeddings import Tie

if TYPE_CHECKING:
    from quantkit.extract.changed import Changed

EXTRACTION = "extraction.json"
EXTRACTED_MARK = Mark(EXTRACTION, ("schema", "base", "tuned", "tensors"))

_PEFT = "base_model.model."
_ROWS = 1024


@dataclass(frozen=True)
class Extracted:
    """A tensor of the adapter, as extraction.json and ``--json`` have it.

    Attributes:
        name: the base's tensor.
        way: ``lora``, ``full`` or ``bias``.
        rank: of the LoRA; 0 for what is there in full.
        change: norm of the difference, relative to the base's tensor; None where that is zero.
        error: norm of what the adapter leaves of the difference, relative to it.
    """

    name: str
    way: str
    rank: int
    change: float | None
    error: float

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return dict(vars(self))


class AdapterWriter:
    """Collects tensors in a file without a header, so that no more than one is in memory; a context manager's body."""

    def __init__(self, folder: Path, scratch: Path, tuned: Checkpoint, alpha: int) -> None:
        """Write into *folder*; *scratch* is for the tensors until all are known.

        One alpha for all matrices, because llama.cpp's converter knows no other: the factors of a matrix of rank r are
        multiplied by r / alpha.
        """
        self._folder, self._tuned, self._alpha = folder, tuned, alpha
        self._data = scratch / "tensors"
        self._file = self._data.open("wb")
        self._entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        self._targets: dict[str, int] = {}  # module -> rank
        self._saved: list[str] = []  # modules
        self._biases = False
        self.tensors: list[Extracted] = []

    def add(self, changed: Changed) -> None:
        """Add what changed of a tensor."""
        pair, factors = changed.pair, changed.factors
        if factors is not None:
            self._targets[pair.module] = factors.rank
            self._write(f"{_PEFT}{pair.module}.lora_A.weight", "F32", factors.right.numpy())
            scaled = factors.left * (factors.rank / self._alpha)
            self._write(f"{_PEFT}{pair.module}.lora_B.weight", "F32", scaled.numpy())
        elif pair.way is Way.FULL:
            self._saved.append(pair.module)
            self._copy(pair.name, f"{_PEFT}{pair.name}")
        else:
            self._biases = True
        change = None if np.isinf(changed.change) else changed.change
        rank = 0 if factors is None else factors.rank
        self.tensors.append(Extracted(pair.name, str(pair.way), rank, change, changed.error))

    def finish(self, all_pairs: Sequence[Pair], base: str, tuned: str, tie: Tie | None) -> None:
        """Write the folder's files.

        Args:
            all_pairs: every tensor of the model.
            tie: the embedding and the output head that are one tensor.
            base, tuned: names of the two models.

        Raises:
            CheckpointError: there is nothing for LoRA.
        """
        if not self._targets:
            changed = ", ".join(one.name for one in self.tensors[:3])
            raise CheckpointError(
                f"{self._tuned.path}: no linear layer differs from the base's"
                + (f"; only {changed} and {len(self.tensors)} tensors in all" if changed else ", nor anything else"),
                hint="build the whole model instead" if changed else "give the trained model, and its base as --base",
            )
        tied = tie is not None and f"{_PEFT}{tie.embedding}" in self._entries
        if tie is not None and tied:  # PEFT has the trained tensor under both names
            self._copy(tie.embedding, f"{_PEFT}{tie.head}")
        if self._biases:  # PEFT saves all of them or none
            for pair in all_pairs:
                if pair.way is Way.BIAS:
                    layer = ".base_layer" if pair.module in self._targets else ""
                    self._copy(pair.name, f"{_PEFT}{pair.module}{layer}.bias")
        self._file.close()
        _write_safetensors(self._folder / "adapter_model.safetensors", self._entries, self._data)
        write_json(self._folder / "adapter_config.json", self._config(all_pairs, base, tied=tied))
        report = {"schema": SCHEMA, "base": base, "tuned": tuned, "tensors": [one.to_json() for one in self.tensors]}
        write_json(self._folder / EXTRACTION, report)

    def close(self) -> None:
        """Close the file with the tensors."""
        self._file.close()

    def _config(self, all_pairs: Sequence[Pair], base: str, *, tied: bool) -> dict[str, Any]:
        ranks = self._targets
        most = max(ranks.values())
        modules = {pair.module for pair in all_pairs}
        return {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base,
            "r": most,
            "lora_alpha": self._alpha,
            "lora_dropout": 0.0,
            "target_modules": short_names(ranks, modules),
            "rank_pattern": {module: rank for module, rank in ranks.items() if rank != most},
            "alpha_pattern": {},
            "modules_to_save": short_names(self._saved, modules) or None,
            "ensure_weight_tying": tied,
            "bias": "all" if self._biases else "none",
            "use_rslora": False,
            "use_dora": False,
            "fan_in_fan_out": False,
            "inference_mode": True,
            "init_lora_weights": True,
        }

    def _copy(self, name: str, key: str) -> None:
        spec = self._tuned.tensors[name]
        rows = spec.shape[0] if spec.shape else 1
        spans = ((start, min(start + _ROWS, rows)) for start in range(0, rows, _ROWS))
        self._write_all(key, spec.dtype, spec.shape, (self._tuned.read(name, *span) for span in spans))

    def _write(self, key: str, dtype: str, values: Array) -> None:
        self._write_all(key, dtype, values.shape, (values,))

    def _write_all(self, key: str, dtype: str, shape: tuple[int, ...], parts: Iterable[Array]) -> None:
        start = self._file.tell()
        for part in parts:
            self._file.write(np.ascontiguousarray(part).data)
        self._entries[key] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, self._file.tell()]}


def short_names(chosen: Collection[str], modules: Collection[str]) -> list[str]:
    """Names that PEFT finds exactly these modules by: the last part where no other module's name ends so.

    PEFT takes the names of ``modules_to_save`` for ends of names, so that ``norm`` also means ``input_layernorm``.
    """
    chosen = set(chosen)
    last = {module.rpartition(".")[2] for module in chosen}
    whole = {name for name in last if {module for module in modules if module.endswith(name)} <= chosen}
    return sorted({name if (name := module.rpartition(".")[2]) in whole else module for module in chosen})


def _write_safetensors(path: Path, entries: Mapping[str, Any], data: Path) -> None:
    raw = json.dumps(entries, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        for block in _whole(data):
            file.write(block)


def _whole(path: Path) -> Iterator[bytes]:
    return blocks(path, 0, path.stat().st_size)
