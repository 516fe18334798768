"""Adapters whose vocabulary is not the base's: tokens were added, or rows cut, before training.

PEFT then saves the embedding and the head in full beside what was trained (``save_embedding_layers``), so the rows that
the base does not have are in the adapter's file. Both must be there, and of one size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from quantkit.checkpoint.tensor_file import TensorSpec
from quantkit.errors import AdapterError

# Modules with a row for each token, by the names of all architectures: the embedding, and the output head.
EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "embed_in")
HEADS = ("lm_head", "embed_out")
_SAVE_HINT = "save it with both: save_pretrained(..., save_embedding_layers=True)"


def has_row_for_each_token(name: str) -> bool:
    """Whether a tensor's rows are the vocabulary: of the embedding or the head."""
    module, _, leaf = name.rpartition(".")
    return leaf == "weight" and module.rpartition(".")[2] in (*EMBEDDINGS, *HEADS)


def vocabulary_rows(base: Mapping[str, TensorSpec]) -> int | None:
    """Rows of the embedding; None where no tensor is known to be one."""
    return next((spec.shape[0] for name, spec in base.items() if has_row_for_each_token(name)), None)


def resized_specs(
    path: Path, saved: Mapping[str, TensorSpec], base: Mapping[str, TensorSpec]
) -> Mapping[str, TensorSpec]:
    """The base's tensors with as many rows of the vocabulary as the adapter was trained with.

    Args:
        path: the adapter's folder, for errors.
        saved: by name, the tensors that the adapter's file has in full.
        base: the base's tensors; a tied head stands for the same stored tensor as the embedding.

    Raises:
        AdapterError: only one of embedding and head is resized, or each to another size.
    """
    tensors = {name: spec for name, spec in base.items() if has_row_for_each_token(name)}
    sizes = {
        name: saved[name].shape[0]
        for name, spec in tensors.items()
        if name in saved and len(saved[name].shape) == 2 and saved[name].shape[1:] == spec.shape[1:]
    }
    resized = [name for name, rows in sizes.items() if rows != tensors[name].shape[0]]
    if not resized:
        return base
    rows = sizes[resized[0]]
    for name, spec in tensors.items():
        other = sizes.get(name)
        if other is None and any(tensors[one].name == spec.name for one in sizes):
            continue  # tied: it has the other's rows
        if other != rows:
            raise AdapterError(
                f"{path}: {resized[0]!r} is resized to {rows} rows, {name!r} "
                + (f"to {other}" if other is not None else f"is not in the file: the base's has {spec.shape[0]}"),
                hint=_SAVE_HINT,
            )
    return {**base, **{name: replace(spec, shape=(rows, *spec.shape[1:])) for name, spec in tensors.items()}}
