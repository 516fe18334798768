"""LoRA and DoRA: from an adapter's factors to the changes that they make.

The semantics are those of PEFT 0.21: scaling ``alpha / r``, or ``alpha / sqrt(r)`` for rsLoRA (Kalajdzievski 2023,
arXiv:2312.03732); ``rank_pattern`` and ``alpha_pattern`` match the end of a module's name; ``fan_in_fan_out`` has no
effect on Linear layers. Either all factors have DoRA's magnitudes (Liu et al. 2024, arXiv:2402.09353) or none has.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from quantkit.adapter.changes import Add, Change, LowRank, Slice
from quantkit.adapter.config import is_target, rank_and_scale
from quantkit.adapter.hints import BASE_HINT, MIXED_UP_HINT, RESAVE_HINT
from quantkit.adapter.parameters import Parameter, is_transposed, trained_parameters
from quantkit.adapter.resized import EMBEDDINGS, HEADS, has_row_for_each_token
from quantkit.adapter.stack import stack_changes
from quantkit.checkpoint.tensor_file import TensorSpec
from quantkit.errors import AdapterError

# Module path and role of a key. The adapter's name between them is optional: training checkpoints keep it.
_LORA = re.compile(
    r"(?P<module>.+)\.(?P<role>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)"
    r"(?:\.(?!weight$|bias$)[^.]+)?(?P<leaf>\.weight|\.bias)?"
)
_MAGNITUDE = "lora_magnitude_vector"
_ROLES = ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "lora_B.bias", _MAGNITUDE)


def read_lora(
    path: Path,
    config: Mapping[str, Any],
    bare: Mapping[str, str],
    specs: Mapping[str, TensorSpec],
    base: Mapping[str, TensorSpec],
    idle: Collection[str] = (),
) -> tuple[dict[str, list[Change]], set[str]]:
    """The changes that an adapter's factors make.

    Args:
        path: the adapter's folder, for errors.
        config: ``adapter_config.json``, checked.
        bare: by key of the file, the key without PEFT's prefix.
        specs: the file's tensors.
        base: the base's tensors.
        idle: names of those that transformers does not load.

    Returns:
        The changes by base tensor, and the keys of the file that are factors.

    Raises:
        AdapterError: naming the tensor that is missing, unknown or does not fit.
    """
    factors: dict[str, dict[str, str]] = {}  # module -> role -> key
    for key, plain in bare.items():
        match = _LORA.fullmatch(plain)
        if match is None:
            if "lora_" in plain:
                raise AdapterError(f"{path}: unexpected tensor {key!r}: it is not part of LoRA")
            continue
        role = match["role"] + (".bias" if match["leaf"] == ".bias" else "")
        if role not in _ROLES:
            raise AdapterError(f"{path}: unexpected tensor {key!r} in this LoRA adapter")
        if factors.setdefault(match["module"], {}).setdefault(role, key) != key:
            raise AdapterError(
                f"{path}: module {match['module']!r} has two {role}: the file contains more than one adapter",
                hint="save only the adapter you want: save_pretrained(..., selected_adapters=[NAME])",
            )
    changes: dict[str, list[Change]] = {}
    parameters = trained_parameters(path, config, base)
    modules = {module: roles for module, roles in factors.items() if module not in parameters}
    for module, roles in modules.items():
        for target, change in _module_changes(path, config, module, roles, specs, base):
            changes.setdefault(target, []).append(change)
    for module, parameter in parameters.items():
        for target, change in _parameter_changes(path, config, parameter, factors.get(module, {}), specs, base):
            changes.setdefault(target, []).append(change)
    _check_targets(path, config, modules, loaded(base, modules, idle))
    return changes, {key for roles in factors.values() for key in roles.values()}


def no_such_tensor(path: Path, key: str, target: str) -> AdapterError:
    """The error for a key whose tensor the base does not have."""
    return AdapterError(f"{path}: {key!r} belongs to {target!r}, which the base model does not have", hint=BASE_HINT)


def _module_changes(
    path: Path,
    config: Mapping[str, Any],
    module: str,
    roles: Mapping[str, str],
    specs: Mapping[str, TensorSpec],
    base: Mapping[str, TensorSpec],
) -> Iterator[tuple[str, Change]]:
    """The changes that one module's factors make: to its weight, and with ``lora_bias`` to its bias."""
    embedding = "lora_embedding_A" in roles or "lora_embedding_B" in roles
    first, second = ("lora_embedding_A", "lora_embedding_B") if embedding else ("lora_A", "lora_B")
    for role in (first, second):
        if role not in roles:
            raise AdapterError(f"{path}: module {module!r} has no {role}", hint="save the adapter again")
    target = f"{module}.weight"
    if target not in base:
        raise no_such_tensor(path, roles[first], target)
    a, b = specs[roles[first]], specs[roles[second]]
    rank, scale = rank_and_scale(config, module)
    # PEFT stores an embedding's factors transposed: A is [r, vocabulary], B is [hidden, r].
    rows, cols = (a.shape[::-1], b.shape[::-1]) if embedding else (b.shape, a.shape)
    if len(a.shape) != 2 or len(b.shape) != 2 or 0 in (*a.shape, *b.shape):
        raise AdapterError(
            f"{path}: module {module!r} has factors of shape {list(a.shape)} and {list(b.shape)}",
            hint="after sharded training (ZeRO-3, FSDP), gather the weights before save_pretrained",
        )
    if rows[1] != rank or cols[0] != rank:
        raise AdapterError(
            f"{path}: module {module!r} has rank {cols[0]} and {rows[1]}, but adapter_config.json says {rank}"
        )
    shape = base[target].shape
    if (rows[0], cols[1]) != shape:
        raise AdapterError(f"{path}: {module!r}: {_misfit(target, (rows[0], cols[1]), shape)}", hint=BASE_HINT)
    magnitude = _magnitude(path, config, module, roles, specs, cols[1] if embedding else rows[0])
    if embedding:
        yield target, LowRank(roles[first], roles[second], True, scale, magnitude)
    else:
        yield target, LowRank(roles[second], roles[first], False, scale, magnitude)
    if key := roles.get("lora_B.bias"):
        bias = f"{module}.bias"
        if bias not in base:
            raise no_such_tensor(path, key, bias)
        if specs[key].shape != base[bias].shape:
            raise AdapterError(
                f"{path}: {key!r} has shape {list(specs[key].shape)}, but {bias!r} has {list(base[bias].shape)}"
            )
        yield bias, Add(key, scale)


def _parameter_changes(
    path: Path,
    config: Mapping[str, Any],
    parameter: Parameter,
    roles: Mapping[str, str],
    specs: Mapping[str, TensorSpec],
    base: Mapping[str, TensorSpec],
) -> Iterator[tuple[str, Change]]:
    """The changes that one parameter's factors make: one for each tensor that is stacked in it."""
    for role in ("lora_A", "lora_B"):
        if role not in roles:
            raise AdapterError(
                f"{path}: target_parameters names {parameter.name!r}, but its {role} is not in the file",
                hint=RESAVE_HINT,
            )
    if more := sorted(roles.keys() - {"lora_A", "lora_B"}):
        raise AdapterError(f"{path}: unexpected tensor {roles[more[0]]!r} for the parameter {parameter.name!r}")
    rank, scale = rank_and_scale(config, parameter.name)
    if not parameter.experts:
        whole = LowRank(roles["lora_B"], roles["lora_A"], False, scale)
        for change in stack_changes(path, parameter.stack, whole, rank, specs, base, is_transposed(config)):
            yield parameter.stack, change
        return
    shapes = _stacked_shapes(path, parameter, roles["lora_A"], base)
    out, width, count = sum(shape[0] for shape in shapes), shapes[0][1], len(parameter.experts)
    a, b = specs[roles["lora_A"]].shape, specs[roles["lora_B"]].shape
    fits = a == (rank * count, width) and b == (out, rank * count)
    fits_transposed = count > 1 and a == (rank * count, out) and b == (width, rank * count)
    saved_transposed = is_transposed(config)
    if fits and fits_transposed and saved_transposed is None:
        raise AdapterError(
            f"{path}: {parameter.name!r} is square, and peft_version in adapter_config.json does not say whether its "
            "factors are transposed",
            hint="merge it with merge_and_unload of the PEFT version that saved it",
        )
    transposed = fits_transposed and (saved_transposed if fits else saved_transposed is not False)
    if not fits and not transposed:
        raise AdapterError(
            f"{path}: {parameter.name!r} has factors of shape {list(a)} and {list(b)}, expected "
            f"{[rank * count, width]} and {[out, rank * count]} ({count} experts in the base model, rank {rank})",
            hint=BASE_HINT,
        )
    first, second = ("lora_A", "lora_B") if transposed else ("lora_B", "lora_A")
    for expert, stacked in enumerate(parameter.experts):
        start = 0
        for target, shape in zip(stacked, shapes, strict=True):
            part = Slice(expert, count, start, start + shape[0])
            yield target, LowRank(roles[first], roles[second], bool(transposed), scale, part=part)
            start += shape[0]


def _stacked_shapes(
    path: Path, parameter: Parameter, key: str, base: Mapping[str, TensorSpec]
) -> list[tuple[int, ...]]:
    """The shapes of one expert's matrices in *parameter*, which must be the same for all experts."""
    for target in (name for stacked in parameter.experts for name in stacked):
        if target not in base:
            raise no_such_tensor(path, key, target)
    by_expert = [[base[name].shape for name in stacked] for stacked in parameter.experts]
    widths = {shape[1:] for shape in by_expert[0]}
    if any(shapes != by_expert[0] for shapes in by_expert) or len(widths) != 1 or len(widths.pop()) != 1:
        raise AdapterError(f"{path}: the experts of {parameter.name!r} have different shapes in the base model")
    return by_expert[0]


def _magnitude(
    path: Path,
    config: Mapping[str, Any],
    module: str,
    roles: Mapping[str, str],
    specs: Mapping[str, TensorSpec],
    size: int,
) -> str:
    """The key of a module's DoRA magnitudes, of shape [*size*]; empty for plain LoRA."""
    key = roles.get(_MAGNITUDE, "")
    if bool(key) != bool(config.get("use_dora")):
        raise AdapterError(
            f"{path}: {key!r} belongs to DoRA, but use_dora is not set in adapter_config.json"
            if key
            else f"{path}: use_dora is set, but module {module!r} has no {_MAGNITUDE}",
            hint=MIXED_UP_HINT,
        )
    if key and specs[key].shape != (size,):
        raise AdapterError(f"{path}: {key!r} has shape {list(specs[key].shape)}, expected [{size}]")
    return key


def _misfit(target: str, trained: tuple[int, int], shape: Sequence[int]) -> str:
    """How the shapes differ; as hidden sizes, which users know, if the layer's input is the hidden state."""
    from_hidden = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "lm_head", "embed_tokens")
    if target.split(".")[-2] in from_hidden and trained[1] != shape[1]:
        return f"the adapter was trained on hidden size {trained[1]}, but this base model has {shape[1]}"
    return f"the adapter was trained on shape {list(trained)}, but this base model has {list(shape)}"


# Modules that PEFT's "all-linear" leaves out: embeddings are not Linear layers, and output heads are skipped.
_NOT_LINEAR = (*EMBEDDINGS, *HEADS, "wpe")
# transformers 5 keeps all experts of a layer in one tensor, so no expert is a module, whatever the base's names are.
_EXPERT = re.compile(r".+\.experts\.\d+\..+")


def loaded(base: Mapping[str, TensorSpec], paths: Collection[str], idle: Collection[str]) -> Mapping[str, TensorSpec]:
    """The tensors of *base* that a trainer had as tensors of modules.

    Args:
        base: the base's tensors.
        paths: of modules or tensors that the adapter's file has; with an expert's, transformers kept each as modules.
        idle: names of those that transformers does not load.
    """
    with_experts = any(map(_EXPERT.fullmatch, paths))
    return {
        name: spec for name, spec in base.items() if name not in idle and (with_experts or not _EXPERT.fullmatch(name))
    }


def _check_targets(
    path: Path, config: Mapping[str, Any], factors: Mapping[str, Any], base: Mapping[str, TensorSpec]
) -> None:
    """Check that the config names the same modules that the file has factors for."""
    for module in factors:
        tied = config.get("ensure_weight_tying") and has_row_for_each_token(f"{module}.weight")
        if not is_target(config, module) and not tied:
            raise AdapterError(
                f"{path}: target_modules in adapter_config.json does not name {module!r}, but the file has its weights",
                hint=MIXED_UP_HINT,
            )
    all_linear = str(config.get("target_modules")).lower() == "all-linear"
    for name, spec in base.items():
        module = name.removesuffix(".weight")
        linear = len(spec.shape) == 2 and not (all_linear and module.endswith(_NOT_LINEAR))
        if linear and module not in factors and is_target(config, module):
            whole = not factors
            raise AdapterError(
                f"{path}: target_modules names {module!r}, but its "
                + ("factors are not in the file, nor any others" if whole else "weights are not in the file"),
                hint=f"if it is a whole model's file, build from {path} without --adapter; {RESAVE_HINT}"
                if whole
                else RESAVE_HINT,
            )
