"""A vocabulary that adapters have resized: its final size, and a view of the checkpoint with that size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from quantkit.adapter.folder import Adapter
from quantkit.adapter.resized import has_row_for_each_token, vocabulary_rows
from quantkit.checkpoint.folder import Checkpoint
from quantkit.errors import AdapterError
from quantkit.system.shell import command


def resized_rows(adapters: Sequence[Adapter], base: Checkpoint) -> int | None:
    """The number of vocabulary rows if adapters have resized the vocabulary, None if not.

    Raises:
        AdapterError: adapters have different sizes, or a resizing adapter has a weight other than 1.
    """
    own = vocabulary_rows(base.tensors)
    sized = [adapter for adapter in adapters if adapter.vocabulary is not None]
    for adapter in sized:
        if adapter.vocabulary == own:
            continue
        for other in sized:
            if other.vocabulary != adapter.vocabulary:
                raise AdapterError(
                    f"{adapter.path}: was trained with a vocabulary of {adapter.vocabulary} rows, {other.path} with "
                    f"{other.vocabulary}: they cannot be merged into one model",
                    hint="train both on one vocabulary, or build with only one of them",
                )
        if adapter.weight != 1:
            raise AdapterError(
                f"{adapter.path}: the adapter resizes the vocabulary from {own} to {adapter.vocabulary} rows, so it "
                f"cannot be merged with weight {adapter.weight:g}",
                hint=f"merge it with weight 1: {command('--adapter', adapter.path)}",
            )
        return adapter.vocabulary
    return None


def check_one_vocabulary(checkpoint: Checkpoint, guessing: str) -> None:
    """Check that no layer for multi-token prediction has an embedding of its own, which no adapter resizes.

    Args:
        checkpoint: the base.
        guessing: what the names of that layer start with; empty if there is none.

    Raises:
        AdapterError: it has.
    """
    own = (name for name in checkpoint.tensors if guessing and name.startswith(guessing))
    if (name := next(filter(has_row_for_each_token, own), None)) is not None:
        raise AdapterError(
            f"{checkpoint.path}: the adapter resizes the vocabulary, but not {name!r}, which has a row for each token",
            hint="leave out the layers for multi-token prediction: --mtp drop",
        )


def resize(checkpoint: Checkpoint, rows: int) -> Checkpoint:
    """The checkpoint as if its vocabulary had *rows* rows. Its own rows are never read after that."""
    tensors = {
        name: replace(spec, shape=(rows, *spec.shape[1:])) if has_row_for_each_token(name) else spec
        for name, spec in checkpoint.tensors.items()
    }
    config, text = {**checkpoint.config}, checkpoint.config.get("text_config")
    if isinstance(text, Mapping):
        config["text_config"] = {**text, "vocab_size": rows}
    if not isinstance(text, Mapping) or "vocab_size" in config:
        config["vocab_size"] = rows
    return replace(checkpoint, config=config, tensors=tensors)
