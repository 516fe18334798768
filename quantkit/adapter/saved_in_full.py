"""What an adapter's file has in full: whole tensors (``modules_to_save``) and single tokens, each as a change."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from quantkit.adapter.changes import Change, Replace, Tokens
from quantkit.adapter.config import token_indices
from quantkit.adapter.hints import BASE_HINT
from quantkit.adapter.lora import no_such_tensor
from quantkit.adapter.names import Names
from quantkit.checkpoint.tensor_file import TensorFile, TensorSpec, same_values
from quantkit.errors import AdapterError

_SAVED = re.compile(
    r"(?P<module>.+?)(?:\.modules_to_save(?:\.[^.]+)?|(?:\.token_adapter)?\.base_layer)?\.(?P<leaf>weight|bias)"
)
# A module as it was before it was trained in full: PEFT saves it too if the vocabulary was resized.
_BEFORE = re.compile(r"(?P<module>.+)\.original_module\.(?P<leaf>weight|bias)")
_TOKENS = re.compile(r"(?P<module>.+?)(?:\.token_adapter)?\.trainable_tokens_delta(?:\.[^.]+)?")


def saved_specs(names: Names, specs: Mapping[str, TensorSpec]) -> dict[str, TensorSpec]:
    """The tensors that the file has in full, by name in training."""
    found = {key: match for key, plain in names.bare.items() if (match := _SAVED.fullmatch(plain))}
    return {f"{match['module']}.{match['leaf']}": specs[key] for key, match in found.items()}


def replaced(
    path: Path,
    kind: str,
    keys: Mapping[str, str],
    file: TensorFile,
    base: Mapping[str, TensorSpec],
) -> Iterator[tuple[str, Change]]:
    """A change for each tensor that the file has in full, by name in training.

    Raises:
        AdapterError: naming what is twice, without its module, or does not fit the base.
    """
    seen: dict[str, str] = {}
    before = {key: match for key, plain in keys.items() if (match := _BEFORE.fullmatch(plain))}
    for key, plain in keys.items():
        if key in before or _TOKENS.fullmatch(plain):
            continue
        match = _SAVED.fullmatch(plain)
        if match is None:
            raise AdapterError(f"{path}: unexpected tensor {key!r} in this {kind} adapter")
        target = f"{match['module']}.{match['leaf']}"
        if (other := seen.setdefault(target, key)) != key:
            if same_values(file, key, other):  # PEFT saves a resized module twice, as trained and as part of the model
                continue
            raise AdapterError(
                f"{path}: {other!r} and {key!r} both replace {target!r}: the file contains more than one adapter",
                hint="save only the adapter you want: save_pretrained(..., selected_adapters=[NAME])",
            )
        _check_replacement(path, key, file.specs[key], target, base)
        yield target, Replace(key)
    for key, match in before.items():
        if f"{match['module']}.{match['leaf']}" not in seen:
            raise AdapterError(f"{path}: tensor {key!r} is there, but the trained tensor that replaces it is not")


def _check_replacement(path: Path, key: str, spec: TensorSpec, target: str, base: Mapping[str, TensorSpec]) -> None:
    if target not in base:
        raise no_such_tensor(path, key, target)
    if spec.shape != base[target].shape:
        raise AdapterError(
            f"{path}: {key!r} has shape {list(spec.shape)}, expected {list(base[target].shape)} as {target!r}",
            hint=BASE_HINT,
        )


def trained_tokens(
    path: Path,
    config: Mapping[str, Any],
    keys: Mapping[str, str],
    specs: Mapping[str, TensorSpec],
    base: Mapping[str, TensorSpec],
) -> Iterator[tuple[str, Change]]:
    """A change for each module of which single tokens were trained, by name in training.

    Raises:
        AdapterError: naming what is twice, without its module, or does not fit the base.
    """
    found = {match["module"]: key for key, plain in keys.items() if (match := _TOKENS.fullmatch(plain))}
    if len(found) < len([plain for plain in keys.values() if _TOKENS.fullmatch(plain)]):
        raise AdapterError(
            f"{path}: the file has trained tokens of one module twice: it contains more than one adapter"
        )
    tied = len(set(base.values())) < len(base)  # two names of one tensor
    for module, indices in token_indices(path, config, found, tied).items():
        key, target = found[module], f"{module}.weight"
        if target not in base:
            raise no_such_tensor(path, key, target)
        rows, columns = base[target].shape
        if specs[key].shape != (len(indices), columns):
            raise AdapterError(
                f"{path}: {key!r} has shape {list(specs[key].shape)}, but {len(indices)} tokens of {target!r} need "
                f"{[len(indices), columns]}"
            )
        if max(indices) >= rows:
            raise AdapterError(
                f"{path}: token {max(indices)} was trained, but {target!r} has only {rows} rows",
                hint="use the base model with the vocabulary that the adapter was trained on",
            )
        yield target, Tokens(key, indices)
