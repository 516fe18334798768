"""A choice of types as ``--tensor-type`` options: anchored regular expressions, the first match counting."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

from quantkit.choose.groups import role_of
from quantkit.ggml.types import GGMLType

# What ECMAScript's regular expressions, which llama.cpp uses, would take for more than itself.
_SPECIAL = re.compile(r"([.^$*+?()\[\]{}|\\])")


def expressions(types: Mapping[str, GGMLType]) -> tuple[tuple[str, GGMLType], ...]:
    """Pairs of a regular expression and the type of the tensors that it matches.

    For each role the layers that differ from most come first, and then one expression for all layers.
    """
    roles: dict[str, dict[int | None, GGMLType]] = {}
    for name, kind in types.items():
        role, layer = role_of(name)
        roles.setdefault(role, {})[layer] = kind
    found: list[tuple[str, GGMLType]] = []
    for role, by_layer in roles.items():
        if None in by_layer:
            found.append((f"^{_escaped(role)}$", by_layer[None]))
            continue
        counts = Counter(by_layer.values())
        usual = max(counts, key=lambda kind: (counts[kind], -kind.value))
        for kind in sorted(counts, key=lambda kind: kind.value):
            layers = sorted(layer for layer, own in by_layer.items() if own is kind and layer is not None)
            if kind is not usual:
                found.append((rf"^blk\.{_any_of(layers)}\.{_escaped(role)}$", kind))
        found.append((rf"^blk\.[0-9]+\.{_escaped(role)}$", usual))
    return tuple(found)


def options(types: Mapping[str, GGMLType]) -> tuple[str, ...]:
    """The same as users type them: ``^blk\\.0\\.attn_v\\.weight$=q6_K``."""
    return tuple(f"{pattern}={kind.label}" for pattern, kind in expressions(types))


def _any_of(layers: list[int]) -> str:
    return str(layers[0]) if len(layers) == 1 else f"({'|'.join(map(str, layers))})"


def _escaped(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", text)
