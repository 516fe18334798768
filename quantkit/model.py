"""A checkpoint and its adapters, understood: the tensors and metadata of the GGUF they become.

This is the plan's first half. It reads headers and JSON files, checks every shape against the config, and leaves no
tensor of the checkpoint unexplained.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from quantkit.adapter import Adapter, open_adapter
from quantkit.arch import Architecture, Rule, find_architecture, is_supported
from quantkit.checkpoint import Checkpoint, open_checkpoint
from quantkit.errors import AdapterError, ArchitectureError, CheckpointError
from quantkit.ggml_types import GGMLType
from quantkit.gguf_header import KV
from quantkit.plan import EMBEDDING as GGUF_EMBEDDING
from quantkit.plan import PlannedTensor, general_metadata
from quantkit.sampling import sampling_metadata
from quantkit.vocab import Vocabulary, read_vocabulary

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@dataclass(frozen=True)
class MergedCheckpoint:
    """An open checkpoint with its adapters, of whatever architecture: enough to merge them.

    Attributes:
        checkpoint: the base.
        adapters: in the order in which they are merged.
        untied: the checkpoint ties embedding and head, the adapters part them.
        notes: decisions the user should see.
    """

    checkpoint: Checkpoint
    adapters: tuple[Adapter, ...]
    untied: bool
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Model(MergedCheckpoint):
    """An open model of a supported architecture.

    Attributes:
        architecture: its family.
    """

    architecture: Architecture

    @property
    def rows(self) -> int:
        """Rows of the embedding: the size of the vocabulary."""
        return next(tensor for tensor in self.tensors(GGMLType.F32) if tensor.name == GGUF_EMBEDDING).rows

    def tensors(self, base: GGMLType) -> tuple[PlannedTensor, ...]:
        """The tensors of the GGUF file, matrices rounded to *base*, vectors and norms kept in float32."""
        planned = [
            PlannedTensor(
                rule.target, rule.source, rule.shape, base_type(rule.target, rule.shape, base), rule.arrange, rule.unit
            )
            for rule in self.architecture.rules(self.checkpoint.config)
            if rule.parts[0].source in self.checkpoint.tensors
        ]
        planned += [
            PlannedTensor(made.target, "", tuple(made.values.shape), GGMLType.F32, values=made.values)
            for made in self.architecture.generated(self.checkpoint.config)
        ]
        return tuple(planned)

    def vocabulary(self) -> Vocabulary:
        """The tokenizer, as metadata."""
        return read_vocabulary(self.checkpoint, self.rows)

    def metadata(self, name: str, vocabulary: Vocabulary, chat_template: str | None) -> list[KV]:
        """Everything in the GGUF file's header but the tensors.

        Args:
            name: ``general.name``.
            vocabulary: of :meth:`vocabulary`.
            chat_template: the Jinja to carry, the model's own or a named one.
        """
        return [
            *self.bare_metadata(name),
            *vocabulary.metadata,
            *vocabulary.template_metadata(chat_template),
        ]

    def bare_metadata(self, name: str) -> list[KV]:
        """What :meth:`metadata` has besides the vocabulary and the chat template."""
        generation = self.checkpoint.path / "generation_config.json"
        return [
            *general_metadata(self.architecture.name, name),
            *sampling_metadata(self.checkpoint.json("generation_config.json"), str(generation)),
            *self.architecture.metadata(self.checkpoint.config),
        ]


@contextmanager
def open_model(path: Path, adapters: Sequence[Path] = ()) -> Iterator[Model]:
    """Open a checkpoint of a supported architecture with its adapters.

    Raises:
        CheckpointError, ArchitectureError, AdapterError: by name, whatever does not fit.
    """
    with open_checkpoint(path) as checkpoint:
        architecture, rules = _understand(checkpoint)
        _check(checkpoint, rules)
        with _merged(checkpoint, adapters) as merged:
            yield Model(**vars(merged), architecture=architecture)


@contextmanager
def open_merged(path: Path, adapters: Sequence[Path]) -> Iterator[MergedCheckpoint]:
    """Open a checkpoint of any architecture with its adapters, to merge them tensor by tensor.

    Raises:
        CheckpointError, ArchitectureError, AdapterError: as :func:`open_model`, where the architecture is supported;
            where it is not, what does not fit between the adapters and the tensors of the checkpoint.
    """
    with open_checkpoint(path) as checkpoint:
        if is_supported(checkpoint.config):
            _check(checkpoint, _understand(checkpoint)[1])
        with _merged(checkpoint, adapters) as merged:
            yield merged


@contextmanager
def _merged(checkpoint: Checkpoint, adapters: Sequence[Path]) -> Iterator[MergedCheckpoint]:
    path, stored = checkpoint.path, HEAD in checkpoint.tensors
    # Many configs leave out what their class has as default: then a head that is not stored is a tied one.
    tied = bool(checkpoint.config.get("tie_word_embeddings", not stored)) and EMBEDDING in checkpoint.tensors
    base = checkpoint.with_alias(HEAD, EMBEDDING) if tied and not stored else checkpoint
    with ExitStack() as stack:
        opened = []
        for adapter in adapters:
            opened.append(open_adapter(adapter, base.tensors))
            stack.callback(opened[-1].close)
        notes = [note for adapter in opened for note in _adapter_notes(adapter, path)]
        untied = tied and _parts_tied_weights(opened, path, stored)
        if untied:
            notes.append(
                "the base ties its embedding and output layer, the adapter trains them apart: the output layer is "
                "written as a tensor of its own"
            )
        yield MergedCheckpoint(base if untied else checkpoint, tuple(opened), untied, tuple(notes))


def _understand(checkpoint: Checkpoint) -> tuple[Architecture, list[Rule]]:
    """The family and its tensors. Every answer of the family is asked for once, so that a bad config is known here."""
    try:
        architecture = find_architecture(checkpoint.config, "config.json")
        architecture.metadata(checkpoint.config)
        architecture.generated(checkpoint.config)
        return architecture, architecture.rules(checkpoint.config)
    except ArchitectureError as error:
        raise ArchitectureError(f"{checkpoint.path}{os.sep}{error}", hint=error.hint) from None


def base_type(name: str, shape: Sequence[int], base: GGMLType) -> GGMLType:
    """Vectors and norms stay float32, as in llama.cpp's converter; matrices take the base type."""
    return GGMLType.F32 if len(shape) <= 1 or name.endswith("_norm.weight") else base


def _check(checkpoint: Checkpoint, rules: Sequence[Rule]) -> None:
    """Every tensor the config demands is there in its shape, and no other is."""
    for rule in rules:
        for source in dict.fromkeys(part.source for part in rule.parts):
            _check_source(checkpoint, rule, source)
    unknown = sorted(checkpoint.tensors.keys() - {part.source for rule in rules for part in rule.parts})
    if unknown:
        raise CheckpointError(
            f"{checkpoint.tensors[unknown[0]].file}: tensor {unknown[0]!r} has no place in a "
            f"{(checkpoint.config.get('architectures') or ['?'])[0]} with this config"
            + (f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""),
            hint="config.json and the weights are from different models: use the folder as it was saved",
        )


def _check_source(checkpoint: Checkpoint, rule: Rule, source: str) -> None:
    spec = checkpoint.tensors.get(source)
    if spec is None and not (rule.optional and rule.parts[0].source not in checkpoint.tensors):
        raise CheckpointError(
            f"{checkpoint.path}: tensor {source!r} is absent", hint="download the model's weight files again"
        )
    if spec is not None and spec.shape != rule.shape_of_sources:
        raise CheckpointError(
            f"{spec.file}: tensor {source!r} has shape {list(spec.shape)}, config.json demands "
            f"{list(rule.shape_of_sources)}",
            hint="config.json and the weights are from different models: use the folder as it was saved",
        )


def _adapter_notes(adapter: Adapter, base: Path) -> Iterator[str]:
    named = str(adapter.config.get("base_model_name_or_path") or "")
    if any(mark in named.lower() for mark in ("bnb-4bit", "-4bit", "-8bit", "gptq", "awq")):
        yield f"{adapter.path.name} was trained on the quantized {named}; it is merged into the weights of {base.name}"


def _parts_tied_weights(adapters: Sequence[Adapter], path: Path, stored: bool) -> bool:
    """Whether embedding and head must become two tensors: an adapter changes one of them, or each in its own way.

    In training with PEFT the head of a tied model keeps the base's embedding while LoRA or a saved copy changes the
    input side (or the other way round), unless ``ensure_weight_tying`` was set. Merging into the shared tensor would
    change both.

    Args:
        adapters: all of them.
        path: of the checkpoint.
        stored: the checkpoint has a copy of the head.

    Raises:
        AdapterError: tied and untied training meet, and no order of merging would give what was trained.
    """
    touching = [adapter for adapter in adapters if {EMBEDDING, HEAD} & adapter.changes.keys()]
    together = [adapter for adapter in touching if adapter.trains_tied_weights_together]
    for adapter in together:
        if HEAD in adapter.changes or stored or len(together) < len(touching):
            why = (
                f"the file has weights for {HEAD!r} of its own"
                if HEAD in adapter.changes
                else f"{path.name} stores the head as a tensor of its own"
                if stored
                else "another adapter trains embedding and head apart"
            )
            raise AdapterError(
                f"{adapter.path}: ensure_weight_tying is set, but {why}",
                hint=f"merge it with PEFT's merge_and_unload on {path}",
            )
    return len(touching) > len(together)
