"""Adapters whose vocabulary differs from the base's: tokens were added, or rows were cut, before training.

PEFT then also saves the embedding and the output head in full (``save_embedding_layers``), so the adapter file has the
rows that the base does not have. Both must be there, with the same number of rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from quantkit.checkpoint.tensor_file import TensorSpec
from quantkit.errors import AdapterError

# Modules with one row per token, by the names of all architectures: the embedding, and the output head.
EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "embed_in")
HEADS = ("lm_head", "embed_out")
_SAVE_HINT = "save it with both: save_pretrained(..., save_embedding_layers=True)"


def has_row_for_each_token(name: str) -> bool:
    """Whether the tensor has one row per token: that of the embedding or the output head."""
    module, _, leaf = name.rpartition(".")
    return leaf == "weight" and module.rpartition(".")[2] in (*EMBEDDINGS, *HEADS)


def vocabulary_rows(base: Mapping[str, TensorSpec]) -> int | None:
    """Number of rows of the embedding; None if no tensor is known to be one."""
    return next((spec.shape[0] for name, spec in base.items() if has_row_for_each_token(name)), None)


def resized_specs(
    path: Path, saved: Mapping[str, TensorSpec], base: Mapping[str, TensorSpec]
) -> Mapping[str, TensorSpec]:
    """The base's tensors, with the number of vocabulary rows that the adapter was trained with.

    Args:
        path: the adapter's folder, for errors.
        saved: by name, the tensors that the adapter's file has in full.
        base: the base's tensors; a tied output head is the same stored tensor as the embedding.

    Raises:
        AdapterError: only one of embedding and output head is resized, or they have different sizes.
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
                f"{path}: {resized[0]!r} was resized to {rows} rows, but {name!r} "
                + (f"to {other}" if other is not None else f"is not in the file (base model: {spec.shape[0]} rows)"),
                hint=_SAVE_HINT,
            )
    return {**base, **{name: replace(spec, shape=(rows, *spec.shape[1:])) for name, spec in tensors.items()}}
