"""adapter_config.json: checks its settings, and finds the modules that it targets.

The rules are PEFT's own (``check_target_module_exists`` and ``get_pattern_key`` of PEFT 0.21), so the modules found
here are the ones that PEFT put LoRA on.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from quantkit.adapter.hints import MERGE_HINT, RESAVE_HINT
from quantkit.adapter.known_settings import refuse_unknown
from quantkit.adapter.start_folders import convert_hint
from quantkit.errors import AdapterError

# Methods that quantkit computes itself, by rows.
_BY_ROWS = ("LORA", "TRAINABLE_TOKENS")
# Methods that PEFT's own layers merge, one module at a time (PEFT 0.21).
_BY_MODULE = (
    *("ADALORA", "BEFT", "BOFT", "C3A", "DEFT", "DELORA", "FOURIERFT", "GLORA", "GRALORA", "HIRA", "HRA"),
    *("IA3", "LN_TUNING", "LOHA", "LOKR", "MISS", "OFT", "PEANUT", "PVERA", "RANDLORA", "ROAD"),
    *("SHIRA", "SUPERTUNING", "VBLORA", "VERA", "WAVEFT"),
)
SUPPORTED = frozenset(_BY_ROWS + _BY_MODULE)
_PROMPT = "it trains a prompt instead of the model's weights, so there is nothing to merge"
_WHOLE = "its factors depend on all modules of the model at once"
_DECOMPOSED = "it decomposes the base's weights again (SVD), and the last bits may differ from those in training"
# PEFT methods that quantkit cannot merge, with the reason.
NOT_MERGEABLE: dict[str, str] = {
    **dict.fromkeys(("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT"), _PROMPT),
    **dict.fromkeys(("ADAPTION_PROMPT", "CARTRIDGE"), _PROMPT),
    **dict.fromkeys(("FROD", "TINYLORA", "UNILORA"), _WHOLE),
    **dict.fromkeys(("XLORA", "POLY"), "it mixes adapters differently for each input, so there is nothing to merge"),
    **dict.fromkeys(("LILY", "SHADOW"), "PEFT itself cannot merge it"),
    "ADAMSS": "it clusters the base's weights, and the clusters may differ from those in training",
    **dict.fromkeys(("OSF", "PSOFT"), _DECOMPOSED),
    "BONE": "PEFT replaced it with MISS",
}

# LoRA settings that change the meaning of the weights, with the name of the feature.
UNSUPPORTED: dict[str, str] = {
    "use_qalora": "QALoRA",
    "alora_invocation_tokens": "aLoRA (active only after certain tokens)",
    "layer_replication": "layer replication",
    "megatron_config": "Megatron LoRA",
    "use_bdlora": "BD-LoRA",
    "arrow_config": "Arrow routing",
    "kasa_config": "KaSA",
    "velora_config": "VeLoRA",
    "monteclora_config": "MonteCLoRA",
}
# Initializations after which the trained factors belong to a modified base, not to the one on disk.
RESIDUAL_INITS = ("pissa", "olora", "corda", "lora_ga", "loftq")


def method(config: Mapping[str, Any]) -> str:
    """The name of the PEFT method in capitals, as PEFT writes it; empty if the config names none."""
    return str(config.get("peft_type") or "").upper()


def check_config(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse unsupported settings and values of a wrong type, so that later code can rely on them.

    Raises:
        AdapterError: naming the setting.
    """
    where = path / "adapter_config.json"
    _refuse_unsupported(where, config)
    kinds = {**_KINDS, **_LORA_KINDS} if method(config) == "LORA" else _KINDS
    for key, (expected, is_sound) in kinds.items():
        value = config.get(key)
        try:
            sound = is_sound(value)
        except (re.error, OverflowError, RecursionError) as error:
            raise AdapterError(f"{where}: {key} is not a valid pattern: {repr(value)[:120]} ({error})") from None
        if not sound:
            raise AdapterError(f"{where}: {key} is {repr(value)[:120]}; expected {expected}")


def _refuse_unsupported(where: Path, config: Mapping[str, Any]) -> None:
    kind = method(config)
    if kind not in SUPPORTED:
        reason = NOT_MERGEABLE.get(kind)
        raise AdapterError(
            f"{where}: peft_type is {kind or 'missing'}: "
            + (reason or f"unknown method; supported are {', '.join(sorted(SUPPORTED))}"),
            hint="use another adapter, or build without this one" if reason == _PROMPT else MERGE_HINT,
        )
    if kind != "LORA":
        refuse_unknown(where, config, kind)
        return
    for key, name in UNSUPPORTED.items():
        if config.get(key):
            raise AdapterError(f"{where}: {key} is set: {name} is not supported", hint=MERGE_HINT)
    init = str(config.get("init_lora_weights", True)).lower()
    if init.startswith(RESIDUAL_INITS):
        raise AdapterError(
            f"{where}: init_lora_weights is {init!r}: the factors belong to a residual base model, not to this one",
            hint=convert_hint(where.parent),
        )
    refuse_unknown(where, config, kind)


def token_indices(
    path: Path, config: Mapping[str, Any], found: Collection[str], tied: bool
) -> dict[str, tuple[int, ...]]:
    """The ids of the trained tokens, by module.

    Args:
        path: the adapter's folder, for errors.
        config: ``adapter_config.json``, checked.
        found: modules that the file has trained tokens for.
        tied: the base has one tensor for the embedding and the output head. If both were trained, PEFT then saves the
            tokens once, or twice if the vocabulary was resized.

    Raises:
        AdapterError: the config and the file name different modules.
    """
    lora = config.get("trainable_token_indices")
    given = config.get("token_indices") if method(config) == "TRAINABLE_TOKENS" else lora
    if not given:
        if found:
            raise AdapterError(
                f"{path}: the file has trained tokens for {min(found)!r}, but adapter_config.json does not say which"
            )
        return {}
    if not isinstance(given, Mapping):
        if not found or (lora and len(found) > 1 and not tied):
            raise AdapterError(
                f"{path}: the file has trained tokens for {len(found)} modules, expected 1", hint=RESAVE_HINT
            )
        return {module: tuple(given) for module in found}
    named = {module: tuple(given[name]) for name in given for module in found if named_by([name], module)}
    for module in found:
        if module not in named and tied and len(set(named.values())) == 1:
            named[module] = next(iter(named.values()))
        if module not in named:
            raise AdapterError(
                f"{path}: the file has trained tokens for {module!r}, but trainable_token_indices does not name it"
            )
    for name, indices in given.items():
        shared = tied and tuple(indices) in named.values()
        if not shared and not any(named_by([name], module) for module in found):
            raise AdapterError(
                f"{path}: trainable_token_indices names {name!r}, which is not in the file", hint=RESAVE_HINT
            )
    return named


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _rank(value: Any) -> bool:
    return _whole(value) and value > 0


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 2.0**128  # NaN is not


def _names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _pattern(value: Any) -> bool:
    return isinstance(value, str) and bool(re.compile(value))


def _inner_pattern(value: Any) -> bool:
    """A pattern that is also valid inside a larger one, where flags such as (?i) are not allowed."""
    return isinstance(value, str) and bool(re.compile(rf"\.({value})"))


def _patterns_to(is_sound: Callable[[Any], bool], value: Any) -> bool:
    return isinstance(value, dict) and all(_inner_pattern(key) and is_sound(item) for key, item in value.items())


def _layer_patterns(value: Any) -> bool:
    return _inner_pattern(value) or (_names(value) and all(map(_inner_pattern, value)))


def _tokens(value: Any) -> bool:
    return isinstance(value, list) and all(map(_whole, value)) and len(set(value)) == len(value) > 0


def _tokens_by_module(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_tokens, value.values()))


def _switch(value: Any) -> bool:
    return value is None or isinstance(value, bool)


# What each setting must be, in words and as a test. A test lets re.error through for an invalid pattern.
_LORA_KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "r": ("a positive whole number", _rank),
    "lora_alpha": ("a number", _number),
    "use_rslora": ("true or false", _switch),
    "use_dora": ("true or false", _switch),
    "rank_pattern": (
        "a table of patterns with positive whole numbers",
        lambda value: not value or _patterns_to(_rank, value),
    ),
    "alpha_pattern": ("a table of patterns with numbers", lambda value: not value or _patterns_to(_number, value)),
    "bias": ("none, all or lora_only", lambda value: value in (None, "none", "all", "lora_only")),
    "target_parameters": ("a list of names", lambda value: value is None or _names(value)),
    "trainable_token_indices": (
        "a list of different token ids, or one such list per module",
        lambda value: value is None or _tokens(value) or _tokens_by_module(value),
    ),
}
_KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "ensure_weight_tying": ("true or false", _switch),
    "token_indices": ("a list of different token ids", lambda value: value is None or _tokens(value)),
    "target_modules": (
        "a list of names, or a pattern",
        lambda value: value is None or _names(value) or _pattern(value),
    ),
    "exclude_modules": (
        "a list of names, or a pattern",
        lambda value: value is None or _names(value) or _pattern(value),
    ),
    "modules_to_save": ("a list of names", lambda value: value is None or _names(value)),
    "layers_to_transform": (
        "a layer number, or a list of layer numbers",
        lambda value: value is None or _whole(value) or (isinstance(value, list) and all(map(_whole, value))),
    ),
    "layers_pattern": ("a pattern, or a list of patterns", lambda value: value is None or _layer_patterns(value)),
}


def pattern_value(pattern: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """Look *module* up in ``rank_pattern`` or ``alpha_pattern`` as PEFT does: the first key that matches its end."""
    for key, value in (pattern or {}).items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return default


def rank_and_scale(config: Mapping[str, Any], name: str) -> tuple[int, float]:
    """The rank of the factors of a module or parameter, and the scale of their product."""
    rank: int = pattern_value(config.get("rank_pattern"), name, config["r"])
    alpha = float(pattern_value(config.get("alpha_pattern"), name, config["lora_alpha"]))
    return rank, alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def is_target(config: Mapping[str, Any], module: str) -> bool:
    """Whether PEFT would put LoRA on *module* (``check_target_module_exists`` of PEFT)."""
    excluded = config.get("exclude_modules")
    if isinstance(excluded, str) and re.fullmatch(excluded, module):
        return False
    if isinstance(excluded, list) and named_by(excluded, module):
        return False
    saved = config.get("modules_to_save") or ()
    if any(re.match(rf"(^|.*\.){re.escape(name)}($|\..*)", module) for name in saved):
        return False
    targets = config.get("target_modules")
    if targets is None:
        return not config.get("target_parameters")
    if isinstance(targets, str):
        return targets.lower() == "all-linear" or bool(re.fullmatch(targets, module))
    if module in targets:
        return True
    if not named_by(targets, module):
        return False
    layers = config.get("layers_to_transform")
    if layers is None or layers == []:
        return True
    index = _layer_index(config.get("layers_pattern"), module)
    return index is not None and index in ([layers] if isinstance(layers, int) else layers)


def named_by(names: Sequence[str], module: str) -> bool:
    """Whether one of *names* is the end of a module's or a parameter's path."""
    return any(module == name or module.endswith(f".{name}") for name in names)


def _layer_index(patterns: str | Sequence[str] | None, module: str) -> int | None:
    if not patterns:
        match = re.match(r".*?\.[^.]*\.(\d+)\.", module)
        return int(match[1]) if match else None
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        if match := re.match(rf"(?:^|.*?\.){pattern}\.(\d+)\.", module):
            return int(match[1])
    return None
