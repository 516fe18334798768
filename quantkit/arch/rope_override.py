"""Rotary settings that training used and config.json does not have.

Trainers stretch the context by their own arguments (``rope_scaling``, a longer ``max_seq_length``) and leave the base's
config.json as it was; other tools lose ``rope_theta`` when they rewrite ``rope_parameters``. The override changes the
config before an architecture reads it, so metadata, tensors and refusals follow from it as from any config.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quantkit.errors import ArchitectureError, QuantkitError

# The kinds of scaling that a factor describes; the others have more numbers, which belong into config.json.
TYPES = ("linear", "yarn")
_TRAINED = "original_max_position_embeddings"
_FULL = "full_attention"
# What a scaling leaves as it is: the base, which part of a head is rotated, and by what.
_KEPT = ("rope_theta", "partial_rotary_factor", "mrope_section", "mrope_interleaved")


@dataclass(frozen=True)
class RopeOverride:
    """Rotary settings from the user.

    Attributes:
        scaling: kind and factor; None for that of the config.
        theta: base of the frequencies; None for that of the config.
    """

    scaling: tuple[str, float] | None = None
    theta: float | None = None

    def __bool__(self) -> bool:
        """Whether anything is overridden."""
        return self.scaling is not None or self.theta is not None


def read_override(scaling: str | None, theta: float | None) -> RopeOverride:
    """Read ``TYPE:FACTOR`` and a base.

    Raises:
        QuantkitError: another kind of scaling, a factor of at most 1, or a base that is not above 0.
    """
    if theta is not None and not (0 < theta < math.inf):
        raise QuantkitError(
            f"--rope-theta {theta:g} is not above 0", hint="pass that of the training: --rope-theta 500000"
        )
    if scaling is None:
        return RopeOverride(None, theta)
    kind, _, text = scaling.partition(":")
    try:
        factor = float(text)
    except ValueError:
        factor = math.nan
    if kind not in TYPES or not (1 < factor < math.inf):
        raise QuantkitError(
            f"--rope-scaling {scaling[:80]!r} is not TYPE:FACTOR with TYPE {' or '.join(TYPES)} and a FACTOR above 1",
            hint="pass --rope-scaling linear:2; other kinds have more numbers: write rope_scaling into config.json",
        )
    return RopeOverride((kind, factor), theta)


def override_rope(config: Mapping[str, Any], override: RopeOverride) -> tuple[dict[str, Any], list[str]]:
    """The config with the settings, and notes on what they replace.

    A scaling multiplies the context that was trained before it was stretched.

    Args:
        config: the complete config of a language model.
        override: what to replace.

    Raises:
        ArchitectureError: the context's size is missing.
    """
    changed = dict(config)
    name = "rope_scaling" if config.get("rope_scaling") or not config.get("rope_parameters") else "rope_parameters"
    given = dict(config.get(name) or {})
    nested = isinstance(given.get(_FULL), Mapping)
    settings: dict[str, Any] = dict(given[_FULL]) if nested else given
    notes = []
    if override.scaling is not None:
        kind, factor = override.scaling
        trained = settings.get(_TRAINED) or config.get(_TRAINED) or config.get("max_position_embeddings")
        if not isinstance(trained, int) or isinstance(trained, bool):
            raise ArchitectureError(f"config.json: max_position_embeddings is {trained!r}; expected a number")
        before = settings.get("rope_type") or settings.get("type") or "none"
        kept: dict[str, Any] = {key: settings[key] for key in _KEPT if key in settings}
        settings = {**kept, "rope_type": kind, "factor": factor, _TRAINED: trained}
        changed |= {"max_position_embeddings": int(trained * factor)}
        if changed.get(_TRAINED) is not None:
            changed[_TRAINED] = trained
        notes.append(
            f"rope scaling {kind} by {factor:g} (--rope-scaling) instead of {before}: the context is "
            f"{int(trained * factor)} tokens, {trained} of them before it was stretched"
        )
    if override.theta is not None:
        before = settings.get("rope_theta") or config.get("rope_theta") or config.get("rotary_emb_base") or "none"
        changed["rope_theta"] = override.theta
        if "rope_theta" in settings:
            settings["rope_theta"] = override.theta
        if "rotary_emb_base" in config:  # the first Qwen's name for it
            changed["rotary_emb_base"] = override.theta
        notes.append(f"rope theta {override.theta:g} (--rope-theta) instead of {before}")
    if settings:
        changed[name] = {**given, _FULL: settings} if nested else settings
    return changed, notes


def check_written(entries: Mapping[str, Any], arch: str, override: RopeOverride) -> None:
    """Check that the metadata has the settings: a family's graph may not read them.

    Args:
        entries: the metadata, by key.
        arch: the GGUF architecture.
        override: what was replaced.

    Raises:
        ArchitectureError: the family has no such setting.
    """
    if override.scaling is not None:
        kind, factor = override.scaling
        found = (entries.get(f"{arch}.rope.scaling.type"), entries.get(f"{arch}.rope.scaling.factor"))
        if found[0] != kind or not _close(found[1], factor):
            raise ArchitectureError(
                f"config.json with --rope-scaling {kind}:{factor:g}: llama.cpp's graph for {arch} has no such scaling",
                hint="leave the option out, or use a base of a family with it: llama, qwen2, qwen3, mistral",
            )
    if override.theta is not None and not _close(entries.get(f"{arch}.rope.freq_base"), override.theta):
        raise ArchitectureError(
            f"config.json with --rope-theta {override.theta:g}: llama.cpp's graph for {arch} reads none",
            hint="leave the option out",
        )


def _close(found: object, wanted: float) -> bool:
    return isinstance(found, int | float) and math.isclose(found, wanted, rel_tol=1e-6)


def lost_theta_note(config: Mapping[str, Any], base: float | None) -> list[str]:
    """A note if a config has rotary settings and no base of the frequencies among them or beside them.

    transformers writes both or neither; a tool that replaced the settings lost the base.

    Args:
        config: the language model's part of config.json, as it was saved.
        base: the base that is assumed.
    """
    given = [config.get(key) for key in ("rope_scaling", "rope_parameters")]
    settings = [one for one in given if isinstance(one, Mapping) and one]
    inner = [one for group in settings for one in (group, *group.values()) if isinstance(one, Mapping)]
    if base is None or not settings or any(one.get("rope_theta") is not None for one in (config, *inner)):
        return []
    return [
        f"config.json has rotary settings without rope_theta: {base:g} is assumed, as transformers does; if the model "
        "was trained with another base, pass --rope-theta"
    ]
