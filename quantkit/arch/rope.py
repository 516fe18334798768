"""Rotary embeddings: their settings in a config, and the same settings in GGUF.

A wrong rope scaling gives no error: the model runs, and gets a little worse with every thousand tokens. So each kind of
scaling is written only for the families whose graph in llama.cpp computes it, and every setting that the graph does not
support is refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from quantkit.arch.base import Config, head_dim, number, positive, require
from quantkit.errors import ArchitectureError
from quantkit.gguf.kv import KV, f32, string, u32

# transformers' default for a config without rope_theta (Llama 2's first configs).
DEFAULT_ROPE_THETA = 10000.0
SCALING = "config.json: rope_scaling"
# llama.cpp's defaults, which most of its graphs do not read from the file.
_YARN_BETAS = {"beta_fast": 32, "beta_slow": 1}
_FACTORS = ("factor", "attention_factor", "attn_factor", "short_factor", "long_factor", "low_freq_factor")
_YARN_KEYS = {
    "extrapolation_factor": "yarn_ext_factor",
    "attention_factor": "yarn_attn_factor",
    "beta_fast": "yarn_beta_fast",
    "beta_slow": "yarn_beta_slow",
}


@dataclass(frozen=True)
class YarnGraph:
    """What llama.cpp's graph for a family reads of YaRN beyond its factor.

    Attributes:
        betas: where frequencies begin and cease to be interpolated, rather than 32 and 1.
        log_multiplier: ``mscale_all_dim``, by which it divides the scale of attention; 0 for none.
        rounded: limits that are not rounded (``truncate``) are refused; llama.cpp rounds them. If not, the family notes
            that.
    """

    betas: bool = False
    log_multiplier: float = 0.0
    rounded: bool = True


PLAIN_YARN = YarnGraph()


def rope(config: Config, layers: str | None = None) -> dict[str, Any]:
    """The rotary settings under one set of names.

    transformers 5 writes ``rope_parameters``, older versions ``rope_theta`` and ``rope_scaling`` (with ``type`` for
    ``rope_type`` before 4.43).

    Args:
        config: config.json.
        layers: the kind of layer, if the family has several (``full_attention``): the config may then have one object
            per kind.

    Raises:
        ArchitectureError: the settings are not an object, are one object per kind of layer, or contradict each other.
    """
    name = "rope_scaling" if config.get("rope_scaling") else "rope_parameters"
    given = config.get(name) or {}
    if layers is not None and isinstance(given, Mapping) and isinstance(given.get(layers), Mapping):
        given = given[layers]
    if not isinstance(given, Mapping) or any(isinstance(value, Mapping) for value in given.values()):
        raise ArchitectureError(
            f"config.json: {name} is {str(given)[:120]}; expected one object with the settings of all layers"
        )
    outside = {
        key: config[key]
        for key in ("rope_theta", "partial_rotary_factor", "original_max_position_embeddings")
        if config.get(key) is not None
    }
    trained = "original_max_position_embeddings"
    if trained in outside and given.get(trained) not in (None, outside[trained]):
        raise ArchitectureError(
            f"config.json: {trained} is {given[trained]} in {name} but {outside[trained]} outside of it"
        )
    settings = {**outside, **given}
    if "rope_type" not in settings and settings.get("type") is not None:
        settings["rope_type"] = settings["type"]
    return settings


def rope_base(settings: Mapping[str, Any]) -> float:
    """The base of the frequencies."""
    return number({"rope_theta": DEFAULT_ROPE_THETA} | dict(settings), "rope_theta", above=0)


def rope_metadata(
    arch: str,
    config: Config,
    scalings: Collection[str],
    yarn: YarnGraph = PLAIN_YARN,
    *,
    partial: bool = False,
) -> list[KV]:
    """Rotary base and scaling.

    Args:
        arch: the GGUF architecture.
        config: config.json.
        scalings: the kinds of scaling that llama.cpp's graph for this family computes.
        yarn: what it reads of YaRN.
        partial: the graph may rotate a part of each head; the entries then say how much.

    Raises:
        ArchitectureError: the scaling cannot be expressed in GGUF.
    """
    settings = rope(config)
    if not partial:
        require(settings, "partial_rotary_factor", 1)
    entries = _scaling(arch, config, settings, check_scaling(settings, scalings), yarn)
    entries.append(f32(f"{arch}.rope.freq_base", rope_base(settings)))
    return [*entries, u32(f"{arch}.rope.dimension_count", rotated(config))] if partial else entries


def rotated(config: Config) -> int:
    """The number of dimensions of an attention head that are rotated, an even number.

    Raises:
        ArchitectureError: ``partial_rotary_factor`` gives another number.
    """
    size = head_dim(config)
    part = int(number({"partial_rotary_factor": 1.0, **rope(config)}, "partial_rotary_factor", above=0) * size)
    if part > size or part % 2:
        raise ArchitectureError(
            f"config.json: partial_rotary_factor rotates {part} of {size} dimensions of an attention head; expected "
            f"an even number up to {size}"
        )
    return part


def check_scaling(settings: Mapping[str, Any], scalings: Collection[str]) -> str:
    """The kind of scaling; ``default`` for none.

    Raises:
        ArchitectureError: the kind is not in *scalings*, or the config has factors but does not name the kind.
    """
    kind = settings.get("rope_type") or "default"
    if not settings.get("rope_type") and (factors := [key for key in _FACTORS if settings.get(key) is not None]):
        raise ArchitectureError(
            f"{SCALING}: {factors[0]} is set, but rope_type, which says how to scale, is missing",
            hint=f"add the model's rope_type; supported for this model: {', '.join(scalings) or 'none'}",
        )
    if kind != "default" and kind not in scalings:
        raise ArchitectureError(
            f"config.json: rope scaling {kind!r} is not supported: llama.cpp does not have it for this model",
            hint=f"supported for this model: {', '.join(scalings) or 'no scaling'}",
        )
    return str(kind)


def _scaling(arch: str, config: Config, settings: Mapping[str, Any], kind: str, yarn: YarnGraph) -> list[KV]:
    """Metadata entries for a kind of scaling; Llama 3's becomes a tensor instead."""
    prefix = f"{arch}.rope.scaling"
    if kind == "linear":
        return [string(f"{prefix}.type", kind), f32(f"{prefix}.factor", number(settings, "factor", SCALING, above=0))]
    if kind == "yarn":
        return [string(f"{prefix}.type", kind), *_yarn(prefix, settings, yarn)]
    if kind == "longrope":
        return [string(f"{prefix}.type", kind), *longrope_metadata(prefix, config, settings)]
    return []


def _yarn(prefix: str, settings: Mapping[str, Any], graph: YarnGraph) -> list[KV]:
    """YaRN (Peng et al. 2023, arXiv:2309.00071), as in ``_compute_yarn_parameters`` of transformers."""
    factor = number(settings, "factor", SCALING, above=0)
    default = _yarn_attention(factor) / _yarn_attention(factor, graph.log_multiplier)
    for key in ("attention_factor", "attn_factor"):
        _same(settings, key, default)
    if not graph.betas:
        for key, value in _YARN_BETAS.items():
            require(settings, key, value, where=SCALING)
    if graph.rounded:
        require(settings, "truncate", True, where=SCALING)
    if settings.get("attention_factor") is None:
        _same_mscale(settings, factor, default)
    return [
        f32(f"{prefix}.factor", factor),
        u32(f"{prefix}.original_context_length", positive(settings, "original_max_position_embeddings")),
        *(
            f32(f"{prefix}.{target}", number(settings, key, SCALING))
            for key, target in _YARN_KEYS.items()
            if settings.get(key) is not None
        ),
    ]


def _same_mscale(settings: Mapping[str, Any], factor: float, computed: float) -> None:
    """Refuse a scale of attention, from ``mscale`` and ``mscale_all_dim``, that llama.cpp does not compute."""
    name, theirs = "mscale / mscale_all_dim", _yarn_attention(factor)
    if settings.get("mscale") and settings.get("mscale_all_dim"):
        ratio = [_yarn_attention(factor, number(settings, key, SCALING)) for key in ("mscale", "mscale_all_dim")]
        theirs = ratio[0] / ratio[1]
    _same({name: theirs}, name, computed)


def _yarn_attention(factor: float, scale: float = 1.0) -> float:
    return 0.1 * scale * math.log(factor) + 1.0 if factor > 1 else 1.0


def _same(settings: Mapping[str, Any], key: str, computed: float) -> None:
    """Refuse a setting that differs from the value that llama.cpp computes itself."""
    if settings.get(key) is not None and not math.isclose(number(settings, key, SCALING), computed, rel_tol=1e-4):
        raise ArchitectureError(
            f"{SCALING}: {key} {settings[key]} is not supported: llama.cpp computes {computed:.6g} from the other "
            "settings"
        )


def longrope_metadata(prefix: str, config: Config, settings: Mapping[str, Any]) -> list[KV]:
    """LongRoPE (Ding et al. 2024, arXiv:2402.13753): how attention is scaled, and beyond which context length.

    The factors themselves are tensors, see :func:`quantkit.arch.rope_factors.longrope_factors`.
    """
    trained = positive(settings, "original_max_position_embeddings")
    stretch = positive(config, "max_position_embeddings") / trained
    _same(settings, "factor", stretch)
    attention = math.sqrt(1 + math.log(stretch) / math.log(trained)) if stretch > 1 else 1.0
    _same(settings, "attention_factor", attention)
    return [f32(f"{prefix}.attn_factor", attention), u32(f"{prefix}.original_context_length", trained)]
