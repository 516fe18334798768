"""A checkpoint under the names that its architecture has for its tensors: unwrapped, unstacked, without what it lacks.

Headers suffice for this, but for a head stored beside a tied embedding, whose values are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from quantkit.arch.base import Config, Rule
from quantkit.arch.stacked_experts import stacked_names, stacked_parts
from quantkit.checkpoint.dtypes import to_float32
from quantkit.checkpoint.folder import Checkpoint
from quantkit.checkpoint.language_part import has_other_parts
from quantkit.checkpoint.parts import with_parts
from quantkit.checkpoint.tensor_names import read_tensor_names
from quantkit.errors import CheckpointError
from quantkit.gguf.header import EMBEDDING

LM_HEAD = "lm_head.weight"
MIXED_UP_HINT = "config.json and weights are from different models: use both from the same saved folder"
# Rows compared at a time.
_COMPARED = 4096


def with_own_names(
    opened: Checkpoint,
    config: Config,
    rules: Sequence[Rule],
    seen: Sequence[Rule] | None = None,
    unused: tuple[str, ...] = (),
    dropped: str = "",
    why_dropped: str = "",
    *,
    turned: bool = False,
) -> Checkpoint:
    """The checkpoint with *config* and the architecture's names; what was done is in its ``remarks``.

    Tensors that nothing explains keep their names: :func:`check_tensors` refuses them.

    Args:
        opened: the checkpoint as it is stored.
        config: the config as its family reads it.
        rules: the family's tensors for it.
        seen: the tensors of its vision part; None to leave that out.
        unused: beginnings of the names of tensors of the vision part that nothing is computed with.
        dropped: what the names of tensors start with that have no part in the result; empty for none.
        why_dropped: the reason.
        turned: the family's checkpoints have stacks of experts, whose matrices may be transposed.

    Raises:
        CheckpointError: naming the tensor that is ambiguous, not merged, or of another kind of model.
    """
    stacked = stacked_names(rules)
    known = {*stacked, *(source for rule in rules for source in rule.sources)}
    vision = has_other_parts(opened.config)
    also = None if seen is None else [source for rule in seen for source in rule.sources]
    names = read_tensor_names(
        str(opened.path),
        opened.tensors,
        known,
        vision=vision or seen is not None,
        seen=also,
        unused=unused,
        dropped=dropped,
        why_dropped=why_dropped,
    )
    tensors = {own: opened.tensors[name] for name, own in names.own.items()}
    checkpoint, notes = replace(opened, config=config, tensors=tensors), list(names.notes)
    parts = dict(stacked_parts(stacked, tensors, turned=turned))
    if parts and not turned:
        stacks = [name for name in {part.stored: None for part in parts.values()} if len(tensors[name].shape) > 2]
        what = f"{len(stacks)} tensors, such as {stacks[0]!r}"
        notes.append(f"{what}, are stacked experts: each matrix is read from its rows")
    checkpoint = with_parts(checkpoint, parts) if parts else checkpoint
    if LM_HEAD in checkpoint.tensors and LM_HEAD not in known:
        checkpoint = _without_head(checkpoint, rules)
        notes.append(f"{LM_HEAD!r} equals the embedding, which is the output head of this model: it is left out")
    return replace(checkpoint, remarks=(*checkpoint.remarks, *notes))


def _without_head(checkpoint: Checkpoint, rules: Sequence[Rule]) -> Checkpoint:
    """The checkpoint without its output head, which must equal the embedding.

    Raises:
        CheckpointError: it does not.
    """
    embedding = next((rule.sources[0] for rule in rules if rule.target == EMBEDDING), "")
    if not _equal(checkpoint, embedding, LM_HEAD):
        raise CheckpointError(
            f"{checkpoint.tensors[LM_HEAD].file}: {LM_HEAD!r} differs from the embedding {embedding!r}, but for this "
            "model llama.cpp has one tensor for both",
            hint="train the model with its head tied to the embedding, as it was published",
        )
    return replace(checkpoint, tensors={name: spec for name, spec in checkpoint.tensors.items() if name != LM_HEAD})


def _equal(checkpoint: Checkpoint, one: str, other: str) -> bool:
    """Whether two matrices have the same shape and values; read in ranges of rows."""
    specs = checkpoint.tensors.get(one), checkpoint.tensors.get(other)
    if specs[0] is None or specs[1] is None or specs[0].shape != specs[1].shape or len(specs[0].shape) != 2:
        return False
    rows = specs[0].shape[0]
    return all(
        np.array_equal(
            to_float32(checkpoint.read(one, start, min(start + _COMPARED, rows))),
            to_float32(checkpoint.read(other, start, min(start + _COMPARED, rows))),
        )
        for start in range(0, rows, _COMPARED)
    )


def check_tensors(checkpoint: Checkpoint, rules: Sequence[Rule]) -> None:
    """Check that the checkpoint has every tensor that the config needs, in its shape, and no other tensor.

    Raises:
        CheckpointError: naming the first that is missing, misshapen or unexpected.
    """
    unknown = sorted(checkpoint.tensors.keys() - {source for rule in rules for source in rule.sources})
    for rule in rules:
        for source in dict.fromkeys(rule.sources):
            _check_source(checkpoint, rule, source, unknown)
    if unknown:
        raise CheckpointError(
            f"{checkpoint.tensors[unknown[0]].file}: unexpected tensor {unknown[0]!r} in a "
            f"{(checkpoint.config.get('architectures') or ['?'])[0]} checkpoint with this config"
            + (f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""),
            hint=MIXED_UP_HINT,
        )


def _check_source(checkpoint: Checkpoint, rule: Rule, source: str, unknown: Sequence[str]) -> None:
    spec = checkpoint.tensors.get(source)
    if spec is None and not (rule.optional and rule.sources[0] not in checkpoint.tensors):
        instead = f"; unexpected in its place: {unknown[0]!r}" if unknown else ""
        more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
        raise CheckpointError(
            f"{checkpoint.path}: tensor {source!r} is missing{instead}{more}", hint=_missing_hint(source, unknown)
        )
    if spec is not None and spec.shape != rule.shape_of_sources:
        raise CheckpointError(
            f"{spec.file}: tensor {source!r} has shape {list(spec.shape)}, but with this config.json it must be "
            f"{list(rule.shape_of_sources)}",
            hint=MIXED_UP_HINT,
        )


def _missing_hint(source: str, unknown: Sequence[str]) -> str:
    """What to do about a missing tensor. Every file is as long as its header says, so another download is no help."""
    if source == LM_HEAD:
        return (
            "save the model with its head (AutoModelForCausalLM), or set tie_word_embeddings to true in config.json if "
            "the head is the embedding"
        )
    if unknown:
        return MIXED_UP_HINT
    return (
        "the files are whole, but were saved without it: save the model again with save_pretrained, or use the "
        "config.json that belongs to the weights"
    )
