"""What ``quantkit advise`` is asked about, as files that are there or could be built."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantkit.advise.advice import Candidate
from quantkit.advise.types import CANDIDATES
from quantkit.advise.weights import weigh
from quantkit.engine.gguf_source import gguf_tensors, widened
from quantkit.errors import QuantkitError
from quantkit.ggml.types import UNQUANTIZED
from quantkit.gguf.header import TensorInfo, file_type_name
from quantkit.gguf.kv import KV
from quantkit.gguf.model import GGUFModel, read_whole_model
from quantkit.hub.fetch import local_folder
from quantkit.hub.source import Source
from quantkit.jobs.prepare import prepare
from quantkit.jobs.recipe import Recipe
from quantkit.jobs.run_options import RunOptions
from quantkit.package.manifest import MANIFEST, read_manifest
from quantkit.plan.gguf_outputs import choose_mixtures, quantized_outputs
from quantkit.plan.values import Output, Plan, PlannedTensor, by_model, count_elements
from quantkit.system.progress import Reporter
from quantkit.verify.report_file import read_evaluated


@dataclass(frozen=True)
class Subject:
    """A model and the files it could be run from.

    Attributes:
        name: of the model.
        metadata: entries of the GGUF file, with the vocabulary.
        tensors: its tensors, of one of the files.
        candidates: the files.
        notes: what the user should know about them.
    """

    name: str
    metadata: Sequence[KV]
    tensors: Sequence[TensorInfo]
    candidates: tuple[Candidate, ...]
    notes: tuple[str, ...] = ()

    def value(self, key: str, default: Any = None) -> Any:
        """A metadata value."""
        return next((entry.value for entry in self.metadata if entry.key == key), default)

    @property
    def architecture(self) -> str:
        """GGUF's name of it."""
        return str(self.value("general.architecture"))

    @property
    def parameters(self) -> int:
        """The number of weights."""
        return sum(count_elements(info.shape) for info in self.tensors)

    @property
    def layers(self) -> int:
        """The number of layers that have weights."""
        return len(self.candidates[0].weights.layers)

    @property
    def vocabulary(self) -> int:
        """Tokens of the vocabulary."""
        return len(self.value("tokenizer.ggml.tokens", ()))

    @property
    def trained_context(self) -> int:
        """Tokens of context that it was trained for.

        Raises:
            QuantkitError: the file does not say.
        """
        key = f"{self.architecture}.context_length"
        found = self.value(key)
        if not isinstance(found, int):
            raise QuantkitError(f"{self.name}: {key} is missing", hint="see what the file says: quantkit inspect FILE")
        return found


def open_subject(source: Source, reporter: Reporter) -> Subject:
    """What a path or a hub id stands for. No weight is read.

    Raises:
        QuantkitError: it is no model, or its files are damaged.
    """
    path = local_folder(source, "model", reporter)
    if path.is_file():
        return _gguf(path)
    if (path / MANIFEST).is_file():
        return _package(path)
    recipe = Recipe(path, quants=CANDIDATES, keep_f16=True)
    with prepare(recipe, RunOptions(device="cpu", reporter=reporter)) as prepared:
        return planned_subject(recipe.name, prepared.plan)


def planned_subject(name: str, plan: Plan) -> Subject:
    """The files of a plan."""
    tensors = {tensor.name: tensor for tensor in plan.tensors}
    values = _values(plan.metadata)
    candidates = tuple(_planned(parts, tensors, values) for parts in plan.models)
    return Subject(name, plan.metadata, _infos(plan.models[0], tensors), candidates)


def every_type(name: str, plan: Plan) -> Subject:
    """The files that the model of a plan could be built as, whatever the plan's own are."""
    metadata = plan.metadata
    outputs = _quantized(metadata, plan.tensors)
    tensors = {tensor.name: tensor for tensor in plan.tensors}
    candidates = tuple(_planned(parts, tensors, _values(metadata)) for parts in by_model(outputs))
    return Subject(name, metadata, _infos(outputs[:1], tensors), candidates)


def _gguf(path: Path) -> Subject:
    """A GGUF file as it is, and the types that it could be quantized to."""
    model = read_whole_model(path)
    metadata = list(model.header.metadata.values())
    own = _present(model, file_type_name(model.header) or "unknown type", None)
    infos = tuple(model.header.tensors.values())
    if any(info.type not in UNQUANTIZED.values() for info in infos):
        note = "the file is quantized already: for other types start from the model or its F16 file"
        return Subject(path.name, metadata, infos, (own,), (note,))
    tensors = widened(gguf_tensors(model))
    by_name = {tensor.name: tensor for tensor in tensors}
    outputs = _quantized(metadata, tensors)
    others = tuple(_planned(parts, by_name, _values(metadata)) for parts in by_model(outputs))
    return Subject(path.name, metadata, infos, (own, *others))


def _package(folder: Path) -> Subject:
    """The files of a package, with what its evaluation measured."""
    manifest = read_manifest(folder)
    measured = {file: figures.get("kl_mean") for file, figures in read_evaluated(folder).items()}
    models = [read_whole_model(folder / entry.file) for entry in manifest.models]
    candidates = tuple(
        _present(model, entry.quant, measured.get(entry.file))
        for model, entry in zip(models, manifest.models, strict=True)
    )
    header = models[0].header
    return Subject(manifest.name, list(header.metadata.values()), tuple(header.tensors.values()), candidates)


def _quantized(metadata: Sequence[KV], tensors: Sequence[PlannedTensor]) -> list[Output]:
    mixtures = choose_mixtures(CANDIDATES, metadata, tensors)
    return quantized_outputs({label: f"{label}.gguf" for label in CANDIDATES}, metadata, tensors, mixtures)


def _planned(parts: Sequence[Output], tensors: Mapping[str, PlannedTensor], values: Mapping[str, Any]) -> Candidate:
    infos = _infos(parts, tensors)
    nbytes = sum(part.nbytes for part in parts)
    return Candidate(parts[0].label, None, nbytes, weigh(values, infos), _elements(infos))


def _present(model: GGUFModel, label: str, divergence: float | None) -> Candidate:
    infos = tuple(model.header.tensors.values())
    weights = weigh(_values(model.header.metadata.values()), infos)
    return Candidate(label, model.path.name, model.nbytes, weights, _elements(infos), divergence)


def _infos(parts: Sequence[Output], tensors: Mapping[str, PlannedTensor]) -> tuple[TensorInfo, ...]:
    return tuple(
        TensorInfo(name, tensors[name].shape, slot.type, slot.offset - len(part.header))
        for part in parts
        for name, slot in part.tensors.items()
    )


def _elements(infos: Iterable[TensorInfo]) -> int:
    return sum(count_elements(info.shape) for info in infos)


def _values(entries: Iterable[KV]) -> dict[str, Any]:
    return {entry.key: entry.value for entry in entries}
