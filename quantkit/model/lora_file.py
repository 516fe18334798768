"""A separate adapter, as the LoRA file that llama.cpp applies to a base model: ``llama-cli -m BASE.gguf --lora FILE``.

For people who serve one base model with many adapters. The layout is that of llama.cpp's ``convert_lora_to_gguf.py``:
two tensors per matrix, ``NAME.lora_a`` [r, in] and ``NAME.lora_b`` [out, r], the rows of B in GGUF's order; for the
embedding ``lora_a`` is [vocabulary, r]. llama.cpp computes ``W + alpha / r * B @ A`` with one ``alpha`` for the whole
file. If the matrices of an adapter have different alphas (``alpha_pattern``, rsLoRA with different ranks), their B are
scaled by the ratio. Anything that the format cannot express is refused by name: llama.cpp's converter silently loses
some of it (the scale of rsLoRA, the patterns), and llama.cpp itself ignores norms.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from quantkit.adapter.changes import Add, Change, LowRank, Module, Replace, Slice, Tokens
from quantkit.adapter.config import method
from quantkit.adapter.folder import Adapter
from quantkit.arch.base import Rule
from quantkit.checkpoint.dtypes import to_float32
from quantkit.errors import AdapterError
from quantkit.ggml.types import UNQUANTIZED
from quantkit.gguf.header import EMBEDDING, OUTPUT
from quantkit.gguf.kv import f32, string, u32
from quantkit.hub.source import source_label, source_name
from quantkit.model.lora_factors import FactorSource, Pair
from quantkit.model.opened import Model
from quantkit.plan.gguf_outputs import GGML_QUANT_VERSION, plain_output
from quantkit.plan.values import Output, PlannedTensor

_NOT_IN_NAMES = re.compile(r"[^\w.+@-]+")
_HINT = "leave out --adapter-gguf; the merged model contains everything that was trained"
# Rows compared at a time when a stored copy is compared with the base.
_COMPARED = 4096


@dataclass(frozen=True)
class AdapterFile:
    """A planned LoRA file.

    Attributes:
        adapter: the adapter in it.
        output: the file.
        tensors: in the order in which they are streamed.
        source: provides their rows.
        alpha: the file's one alpha.
        notes: decisions the user should see.
    """

    adapter: Adapter
    output: Output
    tensors: tuple[PlannedTensor, ...]
    source: FactorSource
    alpha: float
    notes: tuple[str, ...]

    @property
    def label(self) -> str:
        """The adapter's name for messages."""
        return source_label(self.adapter.path)


def plan_adapter_files(model: Model, name: str, outtype: str = "f32") -> tuple[AdapterFile, ...]:
    """A LoRA file for each adapter of *model*: ``NAME-lora-ADAPTER.gguf``.

    Args:
        model: the base with its adapters.
        name: of the package.
        outtype: ``f32``, ``f16`` or ``bf16``.

    Raises:
        AdapterError: naming what the format cannot express.
    """
    stems = [f"{name}-lora-{_NOT_IN_NAMES.sub('-', source_name(adapter.path))}" for adapter in model.adapters]
    files = [f"{stem}.gguf" if stems.count(stem) == 1 else f"{stem}-{i}.gguf" for i, stem in enumerate(stems, 1)]
    return tuple(
        plan_adapter_file(model, adapter, file, outtype) for adapter, file in zip(model.adapters, files, strict=True)
    )


def plan_adapter_file(model: Model, adapter: Adapter, file: str, outtype: str = "f32") -> AdapterFile:
    """The LoRA file of one adapter.

    Args:
        model: the base, opened with *adapter*.
        adapter: one of its adapters.
        file: name of the file.
        outtype: ``f32``, ``f16`` or ``bf16``.

    Raises:
        AdapterError: naming what the format cannot express.
    """
    if not model.architecture.takes_lora:
        raise AdapterError(
            f"{adapter.path}: llama.cpp passes over LoRA on the attention of {model.architecture.name} models, so "
            "no LoRA GGUF can be written",
            hint=_HINT,
        )
    lora = {
        name: change
        for name, changes in adapter.changes.items()
        if (change := _low_rank(model, adapter, name, changes)) is not None
    }
    if not lora:
        raise AdapterError(f"{adapter.path}: the adapter has no LoRA, so no LoRA GGUF can be written", hint=_HINT)
    alphas = {name: _float32(adapter.weight * change.scale * adapter.rank(change)) for name, change in lora.items()}
    if 0.0 in alphas.values():
        raise AdapterError(
            f"{adapter.path}: a LoRA GGUF cannot have lora_alpha 0: llama.cpp would use a scale of 1", hint=_HINT
        )
    alpha = Counter(alphas.values()).most_common(1)[0][0]
    pairs = [
        Pair(rule, changes, adapter.rank(changes[0]), tuple(alphas[source] / alpha for source in rule.sources))
        for rule in model.architecture.rules(model.checkpoint.config)
        if (changes := _changes_of(rule, adapter, lora))
    ]
    _check_tied(model, adapter, pairs)
    passed_over = [pair.rule.sources[0] for pair in pairs if pair.rule.target.endswith(model.architecture.without_lora)]
    if passed_over:
        raise AdapterError(
            f"{adapter.path}: llama.cpp passes over LoRA on {passed_over[0]!r}, so no LoRA GGUF can be written",
            hint=_HINT,
        )
    base = UNQUANTIZED[outtype]
    tensors = tuple(
        PlannedTensor(f"{pair.rule.target}.{factor}", pair.rule.sources, shape, base)
        for pair in pairs
        for factor, shape in pair.shapes.items()
    )
    metadata = [
        string("general.architecture", model.architecture.name),
        string("general.type", "adapter"),
        string("adapter.type", "lora"),
        string("general.name", source_name(adapter.path)),
        f32("adapter.lora.alpha", alpha),
        u32("general.quantization_version", GGML_QUANT_VERSION),
    ]
    odd = [name for name, value in alphas.items() if value != alpha]
    notes = [
        f"{file}: the file has one alpha, {alpha:g}; {len(odd)} of {len(alphas)} matrices were trained with another, "
        f"such as {odd[0]!r}: their B matrices are scaled by the ratio"
    ] if odd else []  # fmt: skip
    output = plain_output(file, outtype, metadata, tensors)
    return AdapterFile(adapter, output, tensors, FactorSource(adapter, pairs), alpha, tuple(notes))


def _low_rank(model: Model, adapter: Adapter, name: str, changes: Sequence[Change]) -> LowRank | None:
    """The LoRA on a tensor; None if the adapter only has a copy of the base's tensor."""
    found: LowRank | None = None
    for change in changes:
        match change:
            case LowRank(magnitude="", place=None) if found is None:
                found = change
                continue
            case Replace(key) if _is_copy(model, adapter, name, key):
                continue  # PEFT saves a copy of the embedding next to LoRA on it
            case Replace():
                what = "was trained in full (modules_to_save, a bias, a resized vocabulary)"
            case LowRank(place=None):
                what = "was trained with DoRA"
            case LowRank(part=Slice()):
                what = "is a stack of experts, each of which has its share of the factors"
            case LowRank():
                what = "was trained in parts that the base model has in one matrix"
            case Add():
                what = "has a LoRA bias (lora_bias)"
            case Tokens():
                what = "has single trained tokens"
            case Module():
                what = f"was trained with {method(adapter.config)}"
        raise AdapterError(f"{adapter.path}: {name!r} {what}, which a LoRA GGUF cannot contain", hint=_HINT)
    return found


def _is_copy(model: Model, adapter: Adapter, name: str, key: str) -> bool:
    shape = adapter.file.specs[key].shape
    stored = model.checkpoint.tensors[name]
    if model.checkpoint.files[stored.file].specs[stored.name].shape != shape:
        return False
    return all(
        np.array_equal(adapter.read(key, start, stop), to_float32(model.checkpoint.read(name, start, stop)))
        for start in range(0, shape[0], _COMPARED)
        for stop in (min(start + _COMPARED, shape[0]),)
    )


def _float32(value: float) -> float:
    """*value* rounded to float32, as in the file."""
    rounded: float = struct.unpack("<f", struct.pack("<f", value))[0]
    return rounded


def _changes_of(rule: Rule, adapter: Adapter, lora: dict[str, LowRank]) -> tuple[LowRank, ...]:
    """The LoRA of a rule's sources; empty if they have none.

    Raises:
        AdapterError: only some of the matrices that GGUF stacks have LoRA, or their ranks differ.
    """
    found = tuple(lora[source] for source in rule.sources if source in lora)
    if found and rule.bends:
        raise AdapterError(
            f"{adapter.path}: {rule.sources[0]!r} is not stored in the GGUF file as in the checkpoint, but after a "
            "computation that LoRA is a part of, so a LoRA GGUF cannot contain it",
            hint=_HINT,
        )
    ranks = {adapter.rank(change) for change in found}
    if len(ranks) > 1 or len(found) not in (0, len(rule.sources)):
        raise AdapterError(
            f"{adapter.path}: {rule.target} stacks {len(rule.sources)} matrices, {len(found)} of them with LoRA of "
            f"rank {', '.join(map(str, sorted(ranks)))}; a LoRA GGUF needs LoRA of one rank on all of them",
            hint=_HINT,
        )
    return found


def _check_tied(model: Model, adapter: Adapter, pairs: Sequence[Pair]) -> None:
    """Refuse LoRA on the embedding or output head of a base that ties them: llama.cpp would misapply it."""
    tensors = model.checkpoint.tensors
    heads = [rule.sources[0] for rule in model.architecture.rules(model.checkpoint.config) if rule.target == OUTPUT]
    stored = Counter(tensors.values())  # a tied head is the embedding under a second name
    if any(head in tensors and stored[tensors[head]] == 1 for head in heads):
        return
    for pair in pairs:
        if pair.rule.target in (EMBEDDING, OUTPUT):
            raise AdapterError(
                f"{adapter.path}: LoRA on {pair.rule.sources[0]!r}: the base model ties its embedding and output head, "
                "and llama.cpp cannot apply a LoRA GGUF to only one of them",
                hint=_HINT,
            )
