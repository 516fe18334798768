"""A PEFT folder: which tensors of the base it changes, and how.

Opening an adapter reads the header of its file and checks it against the base's shapes. The values are read later, when
the tensor that they belong to is streamed. Every key must have a known meaning: a key that PEFT would silently ignore,
or an unknown method, is refused by name, because users cannot see that a merged model lacks part of its training.

quantkit computes LoRA and DoRA itself, by rows, and copies tensors and single tokens that were trained in full; every
other method goes through PEFT's own layers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quantkit.adapter.changes import Add, Change, LowRank, Replace, Tokens
from quantkit.adapter.complete import check_complete
from quantkit.adapter.config import check_config, method
from quantkit.adapter.conv1d import as_linear, conv1d_weights, refuse_other_methods, turn
from quantkit.adapter.hints import with_base_name
from quantkit.adapter.lora import loaded, read_lora
from quantkit.adapter.names import (
    Names,
    as_trained,
    read_names,
    refuse_other_files,
    refuse_vision,
    without_other_parts,
)
from quantkit.adapter.other_cuts import find_cut, join_cut
from quantkit.adapter.require import require_adapter
from quantkit.adapter.resized import resized_specs, vocabulary_rows
from quantkit.adapter.saved_in_full import replaced, saved_specs, trained_tokens
from quantkit.adapter.trainer_heads import settle_heads
from quantkit.checkpoint.dtypes import FLOATS, Array, Floats, all_finite, to_float32
from quantkit.checkpoint.ignored import NOTHING, Ignored
from quantkit.checkpoint.open_file import open_tensor_file
from quantkit.checkpoint.other_formats import other_format
from quantkit.checkpoint.tensor_file import TensorFile, TensorSpec
from quantkit.checkpoint.ungathered import refuse_ungathered
from quantkit.engine.file_source import HashedFile, ReadFiles
from quantkit.errors import AdapterError, CheckpointError
from quantkit.files.json_file import read_json

if TYPE_CHECKING:
    from quantkit.adapter.peft_layer import PeftLayers

# Cached factors of whole expert layers: consecutive tensors share one, and several tensors are in work at a time.
_SHARED_KEPT = 4


@dataclass(frozen=True, eq=False)
class Adapter:
    """An open adapter. Two are equal only if they are the same object, so that factors can be cached by adapter.

    Attributes:
        path: the folder.
        config: ``adapter_config.json``.
        changes: by name of the base tensor, its changes in order.
        file: the weights.
        weight: factor of the changes, see :class:`quantkit.hub.adapter_source.AdapterSource`.
        layers: PEFT's layers, for the changes that PEFT computes.
        vocabulary: rows of the embedding in training; None if it changes neither the embedding nor the output head.
        notes: what the user should know about its names.
    """

    path: Path
    config: Mapping[str, Any]
    changes: Mapping[str, tuple[Change, ...]]
    file: TensorFile
    weight: float = 1.0
    layers: PeftLayers | None = None
    vocabulary: int | None = None
    notes: tuple[str, ...] = ()

    @cached_property
    def weights_file(self) -> HashedFile:
        """The file of the weights."""
        return HashedFile(next(iter(self.file.specs.values())).file)

    def reads(self) -> ReadFiles:
        """Its files, and its weight."""
        return ReadFiles(
            whole=(HashedFile(self.path / "adapter_config.json"), self.weights_file), settings=(str(self.weight),)
        )

    def read(self, key: str, start: int = 0, stop: int | None = None) -> Floats:
        """Rows of one of the adapter's tensors as float32 on the CPU.

        Raises:
            AdapterError: a value is NaN or infinite.
        """
        return self._sound(key, self.file.read(key, start, stop))

    def _sound(self, key: str, stored: Array) -> Floats:
        if not all_finite(stored):
            raise AdapterError(
                f"{self.path}: tensor {key!r} has NaN or infinite values",
                hint="the training diverged: use an earlier checkpoint of the adapter",
            )
        return to_float32(stored)

    def factors(self, change: LowRank) -> tuple[Floats, Floats]:
        """Both factors of a change, [out, r] and [r, in], as float32, contiguous."""
        if change.place is not None:
            left, right = self.factors(replace(change, place=None))
            padded = np.zeros((change.place.rows, left.shape[1]), dtype=np.float32)
            padded[change.place.start : change.place.start + left.shape[0]] = left
            return padded, right
        if (part := change.part) is not None and change.transposed:
            rank = self.rank(change)
            rows = self._shared(change.rows)[part.expert * rank : (part.expert + 1) * rank, part.start : part.stop]
            cols = self._shared(change.cols)[:, part.expert :: part.experts]
            return (
                self._sound(change.rows, np.ascontiguousarray(rows.T)),
                self._sound(change.cols, np.ascontiguousarray(cols.T)),
            )
        if part is not None:
            rank = self.rank(change)
            left = np.ascontiguousarray(self._shared(change.rows)[part.start : part.stop, part.expert :: part.experts])
            return self._sound(change.rows, left), self.read(change.cols, part.expert * rank, (part.expert + 1) * rank)
        left, right = self.read(change.rows), self.read(change.cols)
        return (np.ascontiguousarray(left.T), np.ascontiguousarray(right.T)) if change.transposed else (left, right)

    def rank(self, change: LowRank) -> int:
        """The rank of a change."""
        stored = self.file.specs[change.cols].shape[1 if change.transposed else 0]
        return stored // change.part.experts if change.part else stored

    @cached_property
    def _shared(self) -> Callable[[str], Array]:
        """Reads factors that many tensors share, as they are stored, and caches a few of them."""
        return lru_cache(maxsize=_SHARED_KEPT)(self.file.read)

    def overwrites(self, name: str) -> bool:
        """Whether the changes replace the tensor completely."""
        return self.weight == 1 and any(isinstance(change, Replace) for change in self.changes.get(name, ()))

    def is_linear(self, name: str) -> bool:
        """Whether all changes of a tensor are additions, which the adapter's weight can scale."""
        return all(
            isinstance(change, Add) or (isinstance(change, LowRank) and not change.magnitude)
            for change in self.changes.get(name, ())
        )

    def trains_together(self, embedding: str, head: str) -> bool:
        """Whether tied embeddings stayed one tensor in training.

        PEFT keeps them so with ``ensure_weight_tying``, and always for single trained tokens of the embedding.
        """
        if self.config.get("ensure_weight_tying"):
            return True
        changes = self.changes.get(embedding, ())
        return head not in self.changes and bool(changes) and all(isinstance(change, Tokens) for change in changes)

    def close(self) -> None:
        self.file.close()


def adapter_files(path: Path) -> list[Path]:
    """The files of an adapter's tensors in a PEFT folder: the first is read, as by PEFT."""
    return [f for f in (path / "adapter_model.safetensors", path / "adapter_model.bin") if f.is_file()]


def open_adapter(
    path: Path,
    base: Mapping[str, TensorSpec],
    weight: float = 1.0,
    *,
    model: Mapping[str, Any] | None = None,
    language_only: bool = False,
    ignored: Ignored = NOTHING,
    idle: Collection[str] = (),
    guessing: str = "",
) -> Adapter:
    """Open a PEFT folder against the tensors of its base.

    Args:
        path: folder with ``adapter_config.json`` and ``adapter_model.safetensors`` (or ``.bin``).
        base: the base's tensors by Hugging Face name; a tied output head is also listed under its own name.
        weight: factor of its changes.
        model: the base's ``config.json``; without it, every matrix counts as that of a Linear layer.
        ignored: weight files that are treated as if they were not there.
        language_only: the base is only the language model of a vision-language model.
        idle: names of tensors of the base that transformers does not load, so that nobody trains them.
        guessing: what the names of a layer for multi-token prediction start with, which few adapters are trained with.

    Raises:
        AdapterError: naming what is unsupported, missing or does not fit.
    """
    require_adapter(path)
    try:
        config = read_json(path / "adapter_config.json")
    except CheckpointError as error:
        raise AdapterError(str(error), hint=error.hint) from None
    check_config(path, config)
    weights = next((f for f in adapter_files(path) if not ignored.covers(f.name)), None)
    if weights is None:
        refuse_other_files(path)
        missing = f"{path}: adapter_model.safetensors is missing"
        if (other := other_format(path, "adapter")) is not None:
            raise AdapterError(f"{missing}; the folder has only {other[0]}", hint=other[1])
        raise AdapterError(missing, hint="download the adapter's weights")
    file = open_tensor_file(weights, AdapterError)
    try:
        if guessing:
            base = as_trained(path, file.specs, base, guessing)
        refuse_ungathered((s for s in file.specs.values() if "lora_" not in s.name), path, AdapterError)
        names = read_names(path, file.specs, base)
        if language_only:
            refuse_vision(path, names)
        base, told = without_other_parts(path, names, config, base)
        held = [*names.notes(path), *told]
        names, notes = settle_heads(path, config, names, base)
        own = {own: spec for name, spec in base.items() if (own := names.in_training(name)) is not None}
        trained = resized_specs(path, saved_specs(names, file.specs), own)
        conv1d = conv1d_weights(config, model, trained) if model is not None else frozenset[str]()
        cut = find_cut(config, names.bare.values(), trained, model)
        untrained = {name for name in map(names.in_training, idle) if name is not None}
        changes, layers, unknown = _changes(path, config, names, file, cut.base, conv1d, untrained)
        changes = join_cut(path, cut, changes)
    except AdapterError as error:
        file.close()
        raise AdapterError(str(error), hint=with_base_name(error.hint, config)) from None
    except BaseException:
        file.close()
        raise
    in_base = {names.in_base(name): tuple(ops) for name, ops in changes.items()}
    vocabulary = vocabulary_rows({name: trained[name] for name in changes})
    return Adapter(path, config, in_base, file, weight, layers, vocabulary, (*held, *notes, *cut.notes, *unknown))


def _changes(
    path: Path,
    config: Mapping[str, Any],
    names: Names,
    file: TensorFile,
    base: Mapping[str, TensorSpec],
    conv1d: frozenset[str],
    idle: Collection[str],
) -> tuple[dict[str, list[Change]], PeftLayers | None, list[str]]:
    """The changes, by the tensor's name in training, which is the name that the config's patterns match; and notes."""
    specs, layers = file.specs, None
    if not specs:
        raise AdapterError(f"{path}: the adapter file has no tensors", hint="save the adapter again")
    own: dict[str, list[Change]] = {}
    used: set[str] = set()
    kind = method(config)
    if kind == "LORA":
        own, used = read_lora(path, config, names.bare, specs, as_linear(base, conv1d), idle)
    elif kind != "TRAINABLE_TOKENS":
        from quantkit.adapter.peft_layer import PeftLayers  # which needs torch

        refuse_other_methods(path, config, names.bare, conv1d)
        layers = PeftLayers.open(path, config, names.bare, file, loaded(base, names.bare.values(), idle))
        own, used = layers.changes(), layers.keys
    changes: dict[str, list[Change]] = {}
    for key in specs.keys() - used if layers else specs:
        if specs[key].dtype not in FLOATS:
            raise AdapterError(
                f"{path}: tensor {key!r} is stored as {specs[key].dtype}; supported are {', '.join(FLOATS)}"
            )
    rest = {key: plain for key, plain in names.bare.items() if key not in used}
    # A module saved in full comes first: next to an embedding's factors PEFT also saves a copy of the base's embedding.
    for target, change in (*replaced(path, kind, rest, file, base), *trained_tokens(path, config, rest, specs, base)):
        changes.setdefault(target, []).append(change)
    for target, ops in own.items():
        changes.setdefault(target, []).extend(ops)
    notes = check_complete(path, config, changes, base)
    return turn(path, changes, conv1d), layers, notes
