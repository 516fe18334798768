"""Experts that a checkpoint stores as one tensor per layer, although save_pretrained writes a matrix per expert.

transformers 5 keeps the experts of a layer as two parameters while the model is loaded, and trainers that write the
state dict themselves save those; MLX stacks each kind of matrix. Both keep every matrix as [out, in], one expert after
another, so an expert's matrix is a range of rows. Any other layout is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from quantkit.arch.base import Rule
from quantkit.checkpoint.parts import Part
from quantkit.checkpoint.tensor_file import TensorSpec
from quantkit.errors import CheckpointError

_EXPERT = re.compile(r"(?P<layer>.+)\.(?P<mixture>[^.]+)\.experts\.0\.[^.]+\.weight")
_KINDS = {f"ffn_{kind}_exps.weight": kind for kind in ("gate", "up", "down")}
# By layout, for each name: the kinds of matrices that follow each other in one expert. "{}" is the mixture's module,
# "{loaded}" what transformers 5 calls it.
UNGATED = "transformers 5, without gates"
LAYOUTS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "transformers 5": {
        "{loaded}.experts.gate_up_proj": ("gate", "up"),
        "{loaded}.experts.down_proj": ("down",),
    },
    UNGATED: {"{loaded}.experts.up_proj": ("up",)},
    "MLX": {f"{{}}.switch_mlp.{kind}_proj.weight": (kind,) for kind in ("gate", "up", "down")},
}
# What transformers 5 calls a mixture, if not "mlp".
_LOADED = {"feed_forward": "feed_forward", "mixer": "mixer"}
_ROUTER = ".gate.weight"
_HINT = "save the model with save_pretrained, which writes a matrix per expert"


def loaded_as(mixture: str) -> str:
    """What transformers 5 calls a mixture's module, by its name in checkpoints."""
    return _LOADED.get(mixture, "mlp")


def stacked_names(rules: Sequence[Rule]) -> dict[str, tuple[Rule, ...]]:
    """The names of tensors that may be stored in the place of experts' matrices.

    Args:
        rules: of the whole model.

    Returns:
        By name, the rules whose sources it contains, in their order within one expert.
    """
    names: dict[str, tuple[Rule, ...]] = {}
    for layer, (mixture, experts) in _layers(rules).items():
        for layout, stacks in LAYOUTS.items():
            for name, kinds in stacks.items():
                if not {*kinds} <= experts.keys() or (layout == UNGATED and "gate" in experts):
                    continue
                names[f"{layer}.{name.format(mixture, loaded=loaded_as(mixture))}"] = tuple(
                    experts[kind] for kind in kinds
                )
    routers = {
        f"{layer}.{mixture}{_ROUTER}": f"{layer}.{loaded_as(mixture)}{_ROUTER}"
        for layer, (mixture, _) in _layers(rules).items()
    }
    for rule in rules:
        loaded = routers.get(rule.sources[0])
        if loaded and rule.sources[0] != loaded:
            names[loaded] = (rule,)
    return names


def _layers(rules: Sequence[Rule]) -> dict[str, tuple[str, dict[str, Rule]]]:
    """By layer that has experts, their mixture's name, and the rules of their matrices by kind."""
    layers: dict[str, tuple[str, dict[str, Rule]]] = {}
    for rule in rules:
        kind = _KINDS.get(rule.target.split(".", 2)[-1])
        if kind and (match := _EXPERT.fullmatch(rule.sources[0])):
            layers.setdefault(match["layer"], (match["mixture"], {}))[1][kind] = rule
    return layers


def stacked_parts(
    names: Mapping[str, tuple[Rule, ...]], tensors: Mapping[str, TensorSpec], *, turned: bool = False
) -> Iterator[tuple[str, Part]]:
    """Which rows of the stacked tensors are which expert's matrices: pairs of the matrix's name and its rows.

    Args:
        names: from :func:`stacked_names`.
        tensors: the checkpoint's tensors.
        turned: matrices may be transposed, each kind's columns following the other's: the shape says whether they are.

    Raises:
        CheckpointError: a tensor is not stacked as expected, or the experts are stored singly too.
    """
    for name, rules in names.items():
        if name not in tensors:
            continue
        spec, shapes = tensors[name], [rule.shape_of_sources for rule in rules]
        out, columns, count = sum(shape[0] for shape in shapes), shapes[0][1], len(rules[0].sources)
        stacked = (out, columns) if name.endswith(_ROUTER) else (count, out, columns)
        transposed = spec.shape == (count, columns, out) and out != columns
        if spec.shape != stacked and not (turned and transposed):
            raise CheckpointError(
                f"{spec.file}: stacked experts {name!r} have shape {list(spec.shape)}, expected {list(stacked)} "
                f"({count} experts)" + (": they are transposed" if transposed else ""),
                hint=_HINT,
            )
        for expert in range(count):
            start = expert * (columns if transposed else out)
            column = 0
            for rule, shape in zip(rules, shapes, strict=True):
                source = rule.sources[expert]
                if source in tensors:
                    raise CheckpointError(f"{spec.file}: {source!r} is also stored within {name!r}", hint=_HINT)
                yield source, Part(name, start, shape, column if transposed else None)
                start, column = start + (0 if transposed else shape[0]), column + shape[0]
