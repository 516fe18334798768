"""Heads in an adapter file: value heads of PPO, classifiers, and the output head under another trainer's name.

A value head has no part in answers and is passed over with a note. A classifier's or reward model's head takes the
place of the output head, so such an adapter is refused unless the base has that head. The output head and the embedding
have many names, but a model has one of each, so an adapter that calls them otherwise is read by the base's name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from quantkit.adapter.names import Names
from quantkit.adapter.resized import EMBEDDINGS, HEADS
from quantkit.checkpoint.name_tables import CLASSIFIERS, VALUE_HEADS
from quantkit.errors import AdapterError

# Names that other trainers and model classes have for the two, besides those of transformers.
OTHER_HEADS = (*HEADS, "output_layer", "output")
OTHER_EMBEDDINGS = (*EMBEDDINGS, "tok_embeddings")
# What PEFT trains for these tasks; it names both modules in modules_to_save, and a model has one of them.
CLASSIFIER_TASKS = ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS")
_CLASSIFIER_MODULES = tuple(head.rstrip(".") for head in CLASSIFIERS)
_VALUE_MODULES = tuple(head.rstrip(".") for head in VALUE_HEADS)
_HINT = "it scores texts and cannot chat: give an adapter that was trained to answer (task_type CAUSAL_LM)"


def task_of(config: Mapping[str, Any]) -> str:
    """``task_type`` of an adapter's config in capitals; empty if it has none."""
    return str(config.get("task_type") or "").upper()


def settle_heads(
    path: Path, config: Mapping[str, Any], names: Names, base: Collection[str]
) -> tuple[Names, tuple[str, ...]]:
    """The names without value heads and with the base's own name for its output head, and notes about it.

    Args:
        path: the adapter's folder, for errors.
        config: ``adapter_config.json``, checked.
        names: how the file names the base's tensors.
        base: names of the base's tensors.

    Raises:
        AdapterError: the adapter is that of a classifier or reward model, and the base is not.
    """
    modules = {part for name in base for part in name.split(".")[:-1]}
    notes = []
    kept = {}
    for key, plain in names.bare.items():
        if _has(plain, _VALUE_MODULES) and not _has(plain, modules & set(_VALUE_MODULES)):
            notes.append(f"{key!r} is left out: the value head of the training, which has no part in answers")
        else:
            kept[key] = plain
    _refuse_classifier(path, config, kept, modules)
    if task_of(config) in CLASSIFIER_TASKS and not modules & set(_CLASSIFIER_MODULES):
        notes.append(f"{path.name} was trained to classify (task_type {task_of(config)}), not to chat")
    names = replace(names, bare=kept)
    for aliases in (OTHER_HEADS, OTHER_EMBEDDINGS):
        if (pair := _renamed(names, base, aliases)) is not None:
            names = replace(names, prefixes=(pair, *names.prefixes))
            notes.append(f"{path.name} trained {pair[0][:-1]!r}, which is {pair[1][:-1]!r} in the base model")
    return names, tuple(notes)


def is_head_of_training(config: Mapping[str, Any], module: str, base: Iterable[str]) -> bool:
    """Whether *module* of ``modules_to_save`` is a head that the base does not have and that may be absent."""
    named = any(module in name.split(".")[:-1] for name in base)
    classifier = module in _CLASSIFIER_MODULES and task_of(config) in CLASSIFIER_TASKS
    return (classifier or module in _VALUE_MODULES) and not named


def _has(name: str, modules: Collection[str]) -> bool:
    return any(part in modules for part in name.split(".")[:-1])


def _refuse_classifier(
    path: Path, config: Mapping[str, Any], bare: Mapping[str, str], modules: Collection[str]
) -> None:
    task = f" (task_type {task_of(config)})" if task_of(config) else ""
    for key, plain in bare.items():
        for module, kind in zip(_CLASSIFIER_MODULES, CLASSIFIERS.values(), strict=True):
            if module in plain.split(".")[:-1] and module not in modules:
                raise AdapterError(f"{path}: {key!r} is the head of {kind}{task}: the base has none", hint=_HINT)


def _renamed(names: Names, base: Collection[str], aliases: Collection[str]) -> tuple[str, str] | None:
    """The prefix that the file has for the one module of *base* with one of these names; None if it has the base's."""
    own = {name.rpartition(".")[0] for name in base if name.endswith(".weight")}
    found = {module for module in own if module.rpartition(".")[2] in aliases}
    if len(found) != 1:
        return None
    (module,) = found
    tops = {path.partition(".")[0] for path in own}
    for plain in names.bare.values():
        parts = names.in_base(plain).split(".")
        place = next((i for i, part in enumerate(parts[:-1]) if part in aliases), None)
        if place is None or ".layers." in plain or ".h." in plain:
            continue
        path = ".".join(parts[: place + 1])
        if path != module and path not in own and set(parts[:place]) <= tops:
            trained = plain[: plain.index(parts[place]) + len(parts[place])]
            return f"{trained}.", f"{module}."
    return None
