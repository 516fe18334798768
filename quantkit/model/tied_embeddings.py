"""Tied embeddings: whether the embedding and the output head are one tensor or two after adapters have changed them.

When PEFT trains a tied model, the output head keeps the base's embedding while LoRA or a saved copy changes the input
side (or vice versa), unless ``ensure_weight_tying`` was set. Merging into the shared tensor would change both, so the
pair is untied. A tensor that was only saved, because the vocabulary was resized, does not untie them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from quantkit.adapter.changes import Change, LowRank, Replace, Tokens
from quantkit.adapter.folder import Adapter
from quantkit.adapter.hints import MERGE_HINT
from quantkit.checkpoint.folder import Checkpoint
from quantkit.checkpoint.language_part import language_key
from quantkit.checkpoint.tensor_file import same_values
from quantkit.errors import AdapterError
from quantkit.hub.source import source_name

EMBEDDING, LM_HEAD = "model.embed_tokens.weight", "lm_head.weight"
# The names of the two in transformers' classes, and in the layouts of vision-language models.
_PAIRS = (
    (EMBEDDING, LM_HEAD),
    ("model.language_model.embed_tokens.weight", LM_HEAD),
    ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight"),
    ("transformer.wte.weight", LM_HEAD),
    ("transformer.word_embeddings.weight", LM_HEAD),
    ("model.decoder.embed_tokens.weight", LM_HEAD),
    ("gpt_neox.embed_in.weight", "embed_out.weight"),
    ("gpt_neox.embed_in.weight", LM_HEAD),
)


@dataclass(frozen=True)
class Tie:
    """An embedding and an output head that share one tensor.

    Attributes:
        embedding: name of the embedding's tensor.
        head: name of the output head's tensor, if it is stored.
        stored: the checkpoint has a copy of the output head.
    """

    embedding: str
    head: str
    stored: bool


def find_tie(checkpoint: Checkpoint) -> Tie | None:
    """The tied pair of a checkpoint; None if its embeddings are not tied, or the names of the two are unknown."""
    pairs = [(embedding, head) for embedding, head in _PAIRS if embedding in checkpoint.tensors]
    if not pairs:
        return None
    embedding, head = next((pair for pair in pairs if pair[1] in checkpoint.tensors), pairs[0])
    stored = head in checkpoint.tensors
    return Tie(embedding, head, stored) if _is_tied(checkpoint.config, not stored) else None


def check_unknown_tie(checkpoint: Checkpoint, adapters: Sequence[Adapter]) -> None:
    """Refuse to change the only tensor with one row per token, if it may be tied and the names of the pair are unknown.

    Raises:
        AdapterError: an adapter changes that tensor.
    """
    if any(embedding in checkpoint.tensors for embedding, _ in _PAIRS) or not _is_tied(checkpoint.config, True):
        return
    sizes = {part.get("vocab_size") for part in _parts(checkpoint.config)}
    rows = [name for name, spec in checkpoint.tensors.items() if len(spec.shape) == 2 and spec.shape[0] in sizes]
    for adapter in adapters:
        if len(rows) == 1 and rows[0] in adapter.changes:
            raise AdapterError(
                f"{adapter.path}: the adapter changes {rows[0]!r}, which the base model may tie to its output head; "
                "quantkit does not know how to untie them in this architecture",
                hint=MERGE_HINT,
            )


def untied_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """*config* of a model whose embedding and output head are two tensors."""
    apart = {**config, "tie_word_embeddings": False}
    if (key := language_key(config)) is not None:
        apart[key] = {**config[key], "tie_word_embeddings": False}
    return apart


def _is_tied(config: Mapping[str, Any], default: bool) -> bool:
    """Whether the config ties the embeddings; *default* if it does not say, as many configs do not."""
    said = [bool(part["tie_word_embeddings"]) for part in _parts(config) if "tie_word_embeddings" in part]
    return any(said) if said else default


def _parts(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The config, and the config of its text model if it has one."""
    yield config
    if (key := language_key(config)) is not None:
        yield config[key]


def settle_tied(
    adapters: Sequence[Adapter], path: Path, tie: Tie, *, resized: bool
) -> tuple[tuple[Adapter, ...], bool]:
    """Decide whether the embedding and the output head of a tied model must become two tensors.

    Args:
        adapters: all adapters.
        path: the checkpoint's folder.
        tie: the tied pair.
        resized: the adapters change the size of the vocabulary.

    Returns:
        The adapters, with changes for each tensor that will be written; and whether the pair becomes two tensors.

    Raises:
        AdapterError: some adapters were trained tied and others untied, so no merge gives what was trained.
    """
    embedding, head, stored = tie.embedding, tie.head, tie.stored
    touching = [adapter for adapter in adapters if {embedding, head} & adapter.changes.keys()]
    mirrored = [adapter for adapter in touching if not stored and _is_mirrored(adapter, tie)]
    copied = [adapter for adapter in touching if not stored and _is_copied(adapter, tie)]
    together = [adapter for adapter in touching if adapter.trains_together(embedding, head)]
    parting = [adapter for adapter in touching if adapter not in (*mirrored, *copied, *together)]
    for adapter in together:
        own_head = head in adapter.changes and adapter not in mirrored
        if own_head or stored or parting:
            why = (
                f"the file has separate weights for {head!r}"
                if own_head
                else f"{source_name(path)} stores the output head as a separate tensor"
                if stored
                else "another adapter was trained with separate embedding and output head"
            )
            raise AdapterError(
                f"{adapter.path}: {_tying(adapter)}, but {why}",
                hint=f"merge it with PEFT's merge_and_unload on {path}",
            )
    if not parting:
        return tuple(_without(adapter, head) if adapter in mirrored else adapter for adapter in adapters), False
    settled = []
    for adapter in adapters:
        if adapter in copied:
            adapter = _with(adapter, head, adapter.changes[embedding])
        elif adapter in parting and resized:
            adapter = _with_both(adapter, tie)
        settled.append(adapter)
    return tuple(settled), True


def _tying(adapter: Adapter) -> str:
    """Why the embedding and the output head stayed one tensor in training."""
    if adapter.config.get("ensure_weight_tying"):
        return "ensure_weight_tying is set"
    return "its tokens were trained in an embedding that is tied to the output head"


def _is_mirrored(adapter: Adapter, tie: Tie) -> bool:
    """Whether the file has the same values for embedding and output head, because they were one tensor."""
    ours, theirs = adapter.changes.get(tie.embedding, ()), adapter.changes.get(tie.head, ())
    apart = not adapter.config.get("ensure_weight_tying") and _is_trained_in_full(adapter, tie.embedding, tie.head)
    return (
        not apart
        and len(ours) == len(theirs) > 0
        and all(_is_same(adapter, one, other) for one, other in zip(ours, theirs, strict=True))
    )


def _is_trained_in_full(adapter: Adapter, *tensors: str) -> bool:
    """Whether ``modules_to_save`` names one of these."""
    modules = [tensor.removesuffix(".weight") for tensor in tensors]
    saved = adapter.config.get("modules_to_save") or ()
    return any(re.fullmatch(rf"(.*\.)?{re.escape(name)}", module) for name in saved for module in modules)


def _is_same(adapter: Adapter, one: Change, other: Change) -> bool:
    """Whether two changes have the same effect on the same tensor."""
    match one, other:
        case (Tokens(key, indices), Tokens(second, others)):
            return indices == others and same_values(adapter.file, key, second)
        case (Replace(key), Replace(second)):
            return same_values(adapter.file, key, second)
        case (LowRank(magnitude=""), LowRank(magnitude="")):  # the factors of an embedding are stored transposed
            factors = zip(adapter.factors(one), adapter.factors(other), strict=True)
            return one.scale == other.scale and all(np.array_equal(*pair) for pair in factors)
    return False


def _is_copied(adapter: Adapter, tie: Tie) -> bool:
    """Whether the file has the shared tensor as a saved copy that was not trained."""
    changes = adapter.changes.get(tie.embedding, ())
    return (
        tie.head not in adapter.changes
        and bool(changes)
        and all(isinstance(change, Replace) for change in changes)
        and not _is_trained_in_full(adapter, tie.embedding)
    )


def _without(adapter: Adapter, name: str) -> Adapter:
    return replace(adapter, changes={own: ops for own, ops in adapter.changes.items() if own != name})


def _with(adapter: Adapter, name: str, changes: tuple[Change, ...]) -> Adapter:
    return replace(adapter, changes={**adapter.changes, name: changes})


def _with_both(adapter: Adapter, tie: Tie) -> Adapter:
    """The adapter with rows for the side that it did not train: the rows of the other side before training.

    PEFT saves these next to the factors (``base_layer``).

    Raises:
        AdapterError: the rows are not in the file.
    """
    for side, other in ((tie.embedding, tie.head), (tie.head, tie.embedding)):
        if side in adapter.changes or other not in adapter.changes:
            continue
        first = adapter.changes[other][0]
        if not isinstance(first, Replace) or ".base_layer." not in first.key:
            raise AdapterError(
                f"{adapter.path}: the vocabulary was resized and {other!r} trained, but the rows of {side!r} are not "
                "in the file",
                hint="save the adapter with both: save_pretrained(..., save_embedding_layers=True)",
            )
        return _with(adapter, side, (first,))
    return adapter
