"""Embedding and head of a model that ties them: one tensor or two, once adapters have changed them.

In training with PEFT the head of a tied model keeps the base's embedding while LoRA or a saved copy changes the input
side (or the other way round), unless ``ensure_weight_tying`` was set. Merging into the shared tensor would change both,
so the pair is parted. What was only saved, because the vocabulary was resized, parts nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from quantkit.adapter import Adapter
from quantkit.adapter.changes import Change, Replace, Tokens
from quantkit.errors import AdapterError
from quantkit.hub.source import source_name
from quantkit.tensor_file import same_values

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def settle_tied(
    adapters: Sequence[Adapter], path: Path, *, stored: bool, resized: bool
) -> tuple[tuple[Adapter, ...], bool]:
    """Decide whether embedding and head of a tied model must become two tensors.

    Args:
        adapters: all of them.
        path: of the checkpoint.
        stored: the checkpoint has a copy of the head.
        resized: the adapters change the size of the vocabulary.

    Returns:
        The adapters with changes for each of the tensors that will be written, and whether they are two.

    Raises:
        AdapterError: tied and untied training meet, and no order of merging would give what was trained.
    """
    touching = [adapter for adapter in adapters if {EMBEDDING, HEAD} & adapter.changes.keys()]
    mirrored = [adapter for adapter in touching if not stored and _is_mirrored(adapter)]
    copied = [adapter for adapter in touching if not stored and _is_copied(adapter)]
    together = [adapter for adapter in touching if adapter.trains_together(EMBEDDING, HEAD)]
    parting = [adapter for adapter in touching if adapter not in (*mirrored, *copied, *together)]
    for adapter in together:
        own_head = HEAD in adapter.changes and adapter not in mirrored
        if own_head or stored or parting:
            why = (
                f"the file has weights for {HEAD!r} of its own"
                if own_head
                else f"{source_name(path)} stores the head as a tensor of its own"
                if stored
                else "another adapter trains embedding and head apart"
            )
            raise AdapterError(
                f"{adapter.path}: {_tying(adapter)}, but {why}",
                hint=f"merge it with PEFT's merge_and_unload on {path}",
            )
    if not parting:
        return tuple(_without_head(adapter) if adapter in mirrored else adapter for adapter in adapters), False
    settled = []
    for adapter in adapters:
        if adapter in copied:
            adapter = _with(adapter, HEAD, adapter.changes[EMBEDDING])
        elif adapter in parting and resized:
            adapter = _with_both(adapter)
        settled.append(adapter)
    return tuple(settled), True


def _tying(adapter: Adapter) -> str:
    """Why embedding and head stayed one tensor in training."""
    if adapter.config.get("ensure_weight_tying"):
        return "ensure_weight_tying is set"
    return "its tokens were trained in an embedding that the head shares"


def _is_mirrored(adapter: Adapter) -> bool:
    """Whether the file has one and the same for embedding and head, because they were one tensor."""
    ours, theirs = adapter.changes.get(EMBEDDING, ()), adapter.changes.get(HEAD, ())
    apart = not adapter.config.get("ensure_weight_tying") and _is_trained_in_full(adapter, EMBEDDING, HEAD)
    return (
        not apart
        and len(ours) == len(theirs) > 0
        and all(_alike(one, other) for one, other in zip(ours, theirs, strict=True))
        and all(
            same_values(adapter.file, one.key, other.key)
            for one, other in zip(ours, theirs, strict=True)
            if isinstance(one, Replace | Tokens) and isinstance(other, Replace | Tokens)
        )
    )


def _is_trained_in_full(adapter: Adapter, *tensors: str) -> bool:
    """Whether ``modules_to_save`` names one of these."""
    modules = [tensor.removesuffix(".weight") for tensor in tensors]
    saved = adapter.config.get("modules_to_save") or ()
    return any(re.fullmatch(rf"(.*\.)?{re.escape(name)}", module) for name in saved for module in modules)


def _alike(one: Change, other: Change) -> bool:
    if isinstance(one, Tokens) and isinstance(other, Tokens):
        return one.indices == other.indices
    return isinstance(one, Replace) and isinstance(other, Replace)


def _is_copied(adapter: Adapter) -> bool:
    """Whether the file has the one tensor that both are, saved and not trained."""
    changes = adapter.changes.get(EMBEDDING, ())
    return (
        HEAD not in adapter.changes
        and bool(changes)
        and all(isinstance(change, Replace) for change in changes)
        and not _is_trained_in_full(adapter, EMBEDDING)
    )


def _without_head(adapter: Adapter) -> Adapter:
    return replace(adapter, changes={name: ops for name, ops in adapter.changes.items() if name != HEAD})


def _with(adapter: Adapter, name: str, changes: tuple[Change, ...]) -> Adapter:
    return replace(adapter, changes={**adapter.changes, name: changes})


def _with_both(adapter: Adapter) -> Adapter:
    """The adapter with rows for the side it did not train: those the other side had before training.

    PEFT saves them beside the factors (``base_layer``).

    Raises:
        AdapterError: they are not in the file.
    """
    for side, other in ((EMBEDDING, HEAD), (HEAD, EMBEDDING)):
        if side in adapter.changes or other not in adapter.changes:
            continue
        first = adapter.changes[other][0]
        if not isinstance(first, Replace) or ".base_layer." not in first.key:
            raise AdapterError(
                f"{adapter.path}: the vocabulary is resized and {other!r} is trained, but the rows of {side!r} are not "
                "in the file",
                hint="save it with them: save_pretrained(..., save_embedding_layers=True)",
            )
        return _with(adapter, side, (first,))
    return adapter
