"""The tensors of two checkpoints side by side: which of them a LoRA adapter can change, and what none can."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any

from quantkit.checkpoint.folder import Checkpoint
from quantkit.errors import CheckpointError
from quantkit.model.tied_embeddings import find_tie
from quantkit.system.shell import command

# Settings that say nothing of what the model computes, or that the tokenizer and generation_config.json repeat.
_HARMLESS = (
    *("_name_or_path", "torch_dtype", "dtype", "transformers_version", "use_cache", "architectures", "pretraining_tp"),
    *(
        "*_token_id",
        "unsloth_*",
        "quantization_config",
        "*dropout*",
        "*_attn_implementation",
        "output_*",
        "return_dict",
    ),
    *("auto_map", "id2label", "label2id", "max_position_embeddings", "gradient_checkpointing", "initializer_range"),
)
_MISSING = object()


class Way(StrEnum):
    """How an adapter changes a tensor."""

    LORA = "lora"
    FULL = "full"
    BIAS = "bias"


@dataclass(frozen=True)
class Pair:
    """A tensor that both checkpoints have.

    Attributes:
        name: its name in both.
        way: how an adapter would change it; None if it cannot.
    """

    name: str
    way: Way | None

    @property
    def module(self) -> str:
        """The name of its module."""
        return self.name.rpartition(".")[0]


def pairs(base: Checkpoint, tuned: Checkpoint, kinds: Mapping[str, str] | None) -> list[Pair]:
    """Every tensor once, in the order of the base. A tied output head is its embedding.

    Args:
        base: the model before the training.
        tuned: the model after it.
        kinds: class of each module, by name, as transformers has it; None if it does not know the model. Then matrices
            count as linear layers by their names.

    Raises:
        CheckpointError: the two are not the same model in two states.
    """
    _check_configs(base, tuned)
    heads = [tie.head for one in (base, tuned) if (tie := find_tie(one)) is not None]
    if len(heads) == 1 and (heads[0] in base.tensors) != (heads[0] in tuned.tensors):
        raise CheckpointError(
            f"{tuned.path}: its embedding and output head are {'tied' if heads[0] in base.tensors else 'two tensors'}, "
            f"but those of {base.path} are not",
            hint=_build(tuned),
        )
    tied = heads[0] if len(heads) == 2 else None
    names = [name for name in base.tensors if name != tied]
    for name in [*names, *(name for name in tuned.tensors if name != tied)]:
        for one, other in ((base, tuned), (tuned, base)):
            if name not in other.tensors:
                raise CheckpointError(
                    f"{other.path}: has no tensor {name!r}, which {one.path} has: they are not one model in two states",
                    hint="give the checkpoint that the training began with as --base",
                )
        if base.tensors[name].shape != tuned.tensors[name].shape:
            raise _other_shape(base, tuned, name)
    return [Pair(name, _way(name, len(base.tensors[name].shape), kinds)) for name in names]


def _way(name: str, dimensions: int, kinds: Mapping[str, str] | None) -> Way | None:
    module, _, leaf = name.rpartition(".")
    if leaf == "bias":
        return Way.BIAS
    if leaf != "weight" or dimensions > 2:
        return None
    last = module.rpartition(".")[2]
    by_name = dimensions == 2 and not any(part in last for part in ("embed", "norm", "wte", "wpe", "router"))
    linear = by_name if kinds is None or module not in kinds else kinds[module] == "Linear"
    return Way.LORA if linear and dimensions == 2 else Way.FULL


def _check_configs(base: Checkpoint, tuned: Checkpoint) -> None:
    for name, one, other in _differences(base.config, tuned.config):
        if not any(fnmatchcase(name.rpartition(".")[2], pattern) for pattern in (*_HARMLESS, "vocab_size")):
            raise CheckpointError(
                f"{tuned.path / 'config.json'}: {name} is {_shown(other)}, but {_shown(one)} in {base.path}: an "
                "adapter carries no settings of the model",
                hint=_build(tuned),
            )


def _differences(base: Mapping[str, Any], tuned: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, Any, Any]]:
    for name in sorted({*base, *tuned}):
        one, other = base.get(name, _MISSING), tuned.get(name, _MISSING)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            yield from _differences(one, other, f"{at}{name}.")
        elif one != other and not (one in (None, _MISSING) and other in (None, _MISSING)):
            yield f"{at}{name}", one, other


def _shown(value: Any) -> str:
    return "missing" if value is _MISSING else repr(value)[:60]


def _other_shape(base: Checkpoint, tuned: Checkpoint, name: str) -> CheckpointError:
    one, other = base.tensors[name].shape, tuned.tensors[name].shape
    if one[1:] == other[1:] and one[0] in (base.config.get("vocab_size"), tuned.config.get("vocab_size")):
        return CheckpointError(
            f"{tuned.path}: its vocabulary has another size ({name} has {other[0]} rows, {one[0]} in {base.path}), and "
            "an adapter fits one size",
            hint=_build(tuned),
        )
    return CheckpointError(
        f"{tuned.path}: tensor {name!r} has the shape {list(other)}, but {list(one)} in {base.path}",
        hint="give the checkpoint that the training began with as --base",
    )


def _build(tuned: Checkpoint) -> str:
    return f"build the whole model instead: {command('quantkit', 'build', tuned.path)}"
