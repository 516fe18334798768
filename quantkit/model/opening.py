"""Opens a checkpoint with its adapters, and checks each against the others.

Headers and JSON files are read, and every shape is checked against the config. A checkpoint with a tensor that quantkit
does not know is refused.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from quantkit.adapter.folder import Adapter, open_adapter
from quantkit.adapter.resized import vocabulary_rows
from quantkit.arch.base import Rule
from quantkit.arch.families import is_supported
from quantkit.arch.mtp import KEEP, untrained
from quantkit.arch.rope_override import RopeOverride
from quantkit.checkpoint.folder import Checkpoint, open_checkpoint
from quantkit.checkpoint.ignored import Ignored
from quantkit.checkpoint.language_part import has_other_parts
from quantkit.checkpoint.tensor_names import bare
from quantkit.errors import AdapterError
from quantkit.hub.adapter_source import AdapterLike, adapter_sources
from quantkit.hub.base_name import full_precision_name
from quantkit.hub.source import source_name
from quantkit.model.base_names import base_notes
from quantkit.model.every_file import check_every_file
from quantkit.model.opened import MergedCheckpoint, Model
from quantkit.model.resized_vocabulary import check_one_vocabulary, resize, resized_rows
from quantkit.model.stored_blocks import block_notes
from quantkit.model.tied_embeddings import LM_HEAD, check_unknown_tie, find_tie, settle_tied
from quantkit.model.tokenizer_choice import choose_tokenizer
from quantkit.model.understood import AS_SAVED, understand
from quantkit.vocab.files import ParsedFiles


@contextmanager
def open_model(
    path: Path,
    adapters: Sequence[AdapterLike] = (),
    ignore: Sequence[str] = (),
    *,
    rope: RopeOverride = AS_SAVED,
    mtp: str = KEEP,
    mmproj: bool = False,
) -> Iterator[Model]:
    """Open a checkpoint of a supported architecture with its adapters.

    Args:
        path: the checkpoint's folder.
        adapters: to merge, in this order.
        ignore: names or patterns of files that may be passed over, see :func:`check_every_file`.
        rope: rotary settings that replace those of config.json.
        mtp: ``keep`` or ``drop`` layers for multi-token prediction.
        mmproj: also read the vision part.

    Raises:
        CheckpointError, ArchitectureError, AdapterError: naming what does not fit.
    """
    ignored = Ignored(tuple(ignore))
    seen = _look(path, adapters, ignored)
    with open_checkpoint(path, ignored) as opened:
        found = understand(opened, rope, mtp, mmproj=mmproj)
        architecture, checkpoint = found.architecture, found.checkpoint
        parsed = ParsedFiles()
        language_only = has_other_parts(opened.config) and found.projector is None
        idle, without = _idle(found.rules, checkpoint), untrained(architecture.mtp, checkpoint.config)
        with _merged(
            checkpoint, adapters, parsed, ignored, language_only=language_only, idle=idle, untrained=without
        ) as merged:
            _check_head(merged, found.rules)
            filled = architecture.filled_in(opened.config)
            stored = block_notes(merged.checkpoint, merged.adapters)
            notes = [*seen, *filled, *found.notes, *architecture.notes(checkpoint.config), *stored, *merged.notes]
            yield Model(
                **{**vars(merged), "notes": tuple(notes)},
                architecture=architecture,
                parsed=parsed,
                projector=found.projector,
            )


@contextmanager
def open_merged(path: Path, adapters: Sequence[AdapterLike], ignore: Sequence[str] = ()) -> Iterator[MergedCheckpoint]:
    """Open a checkpoint of any architecture with its adapters, to merge them tensor by tensor.

    Args:
        path, adapters, ignore: as in :func:`open_model`.

    Raises:
        CheckpointError, ArchitectureError, AdapterError: as :func:`open_model`, if the architecture is supported;
            if not, only if the adapters do not fit the tensors of the checkpoint.
    """
    ignored = Ignored(tuple(ignore))
    seen = _look(path, adapters, ignored)
    with open_checkpoint(path, ignored) as checkpoint:
        rules: Sequence[Rule] = ()
        without = ""
        if is_supported(checkpoint.config):
            found = understand(checkpoint)
            named, rules = found.checkpoint, found.rules
            without = untrained(found.architecture.mtp, named.config)
            if not has_other_parts(checkpoint.config):  # of a vision-language model, every part is written
                own = {bare(name): spec for name, spec in checkpoint.tensors.items()} if without else {}
                guessing = {name: spec for name, spec in own.items() if name.startswith(without)}
                checkpoint = replace(named, config=checkpoint.config, tensors={**named.tensors, **guessing})
        parsed = ParsedFiles()
        with _merged(checkpoint, adapters, parsed, ignored, idle=_idle(rules, checkpoint), untrained=without) as merged:
            parsed.clear()
            yield replace(merged, notes=(*seen, *block_notes(merged.checkpoint), *merged.notes))


def _look(path: Path, adapters: Sequence[AdapterLike], ignored: Ignored) -> tuple[str, ...]:
    """Check that every file in the folders is accounted for; notes about what is passed over."""
    return check_every_file(path, [source.folder for source in adapter_sources(adapters)], ignored)


def _idle(rules: Sequence[Rule], checkpoint: Checkpoint) -> frozenset[str]:
    """The names of tensors that nothing reads, also in a vision-language model."""
    idle = {source for rule in rules if rule.idle for source in rule.sources}
    return frozenset(name for name in checkpoint.tensors if name.replace("language_model.", "") in idle)


@contextmanager
def _merged(
    checkpoint: Checkpoint,
    adapters: Sequence[AdapterLike],
    parsed: ParsedFiles,
    ignored: Ignored,
    *,
    language_only: bool = False,
    idle: Collection[str] = (),
    untrained: str = "",
) -> Iterator[MergedCheckpoint]:
    """Open the adapters; models in training rarely have tensors whose names start with *untrained*, if not empty."""
    path, tie = checkpoint.path, find_tie(checkpoint)
    base = checkpoint.with_alias(tie.head, tie.embedding) if tie and not tie.stored else checkpoint
    with ExitStack() as stack:
        opened = []
        for source in adapter_sources(adapters):
            opened.append(
                open_adapter(
                    source.folder,
                    base.tensors,
                    source.weight,
                    model=base.config,
                    language_only=language_only,
                    ignored=ignored,
                    idle=idle,
                    guessing=untrained,
                )
            )
            stack.callback(opened[-1].close)
        check_unknown_tie(checkpoint, opened)
        notes = [*checkpoint.notes, *(note for adapter in opened for note in _adapter_notes(adapter, checkpoint))]
        rows = resized_rows(opened, base)
        if rows is not None:
            check_one_vocabulary(base, untrained)
            checkpoint, base = resize(checkpoint, rows), resize(base, rows)
        untied = False
        if tie:
            settled, untied = settle_tied(opened, path, tie, resized=rows is not None)
            opened = list(settled)
        if untied:
            notes.append(
                "the base model ties its embedding and output head, but the adapter trained them separately: the "
                "output head is written as a separate tensor"
            )
        tokenizer = choose_tokenizer(
            path,
            [adapter.path for adapter in opened],
            rows,
            vocabulary_rows(base.tensors),
            [adapter.path for adapter in opened if adapter.vocabulary == rows],
            parsed,
        )
        notes += tokenizer.notes
        yield MergedCheckpoint(base if untied else checkpoint, tuple(opened), untied, tuple(notes), tokenizer)


def _check_head(merged: MergedCheckpoint, rules: Sequence[Rule]) -> None:
    """Check that llama.cpp's graph for the family has an output head, if the embeddings are no longer tied."""
    if merged.untied and not any(LM_HEAD in rule.sources for rule in rules):
        raise AdapterError(
            f"{merged.checkpoint.path}: the adapter changes only one of embedding and output head, but for this model "
            "llama.cpp has one tensor for both",
            hint="train without embed_tokens and lm_head, or with ensure_weight_tying",
        )


def _adapter_notes(adapter: Adapter, base: Checkpoint) -> Iterator[str]:
    yield from adapter.notes
    named = str(adapter.config.get("base_model_name_or_path") or "")
    if (meant := full_precision_name(named)) is not None:
        yield (
            f"{source_name(adapter.path)} was trained on the quantized {named}; it is merged into "
            f"{source_name(base.path)}, which should have the weights of {meant}"
        )
    else:
        yield from base_notes(adapter.path, adapter.config, base.path, base.config)
