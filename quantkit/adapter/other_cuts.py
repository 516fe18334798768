"""LoRA that was trained on another cut of the same model: q, k and v apart where the base has them in one matrix.

Phi-3 is published with q, k, v and with gate, up in one matrix each, and as a Llama with all of them apart; trainers
use either. The rows of the one matrix are those of the others from the top down, so LoRA maps exactly: of a matrix that
was trained as a whole, each part gets its rows of B; of one that was trained apart, B is placed at its rows. Only LoRA
maps so: anything else is refused by name. Other families' fused matrices mix the heads' rows, and are not listed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from quantkit.adapter.changes import Change, LowRank, Place, Slice
from quantkit.adapter.config import method
from quantkit.adapter.hints import BASE_HINT
from quantkit.arch.base import head_dim, kv_heads, positive
from quantkit.checkpoint.tensor_file import TensorSpec
from quantkit.errors import AdapterError

# By the matrix that holds them, the matrices whose rows follow each other in it.
CUTS: Mapping[str, tuple[str, ...]] = {
    "self_attn.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
}
# Models that have the matrices on the left, with their rows in this order.
_FUSED_MODELS = ("phi3",)
# Models that have those on the right.
_SPLIT_MODELS = ("llama", "mistral")


@dataclass(frozen=True)
class OtherCut:
    """How the model that was trained was cut.

    Attributes:
        base: the base's tensors as that model had them, by its names.
        taken: by name of a weight that only the base has, the trained weight that holds it, its first row and end.
        placed: by name of a weight that only the trained model had, the base's weight that holds it, and its place.
    """

    base: Mapping[str, TensorSpec]
    taken: Mapping[str, tuple[str, int, int]] = field(default_factory=dict)
    placed: Mapping[str, tuple[str, Place]] = field(default_factory=dict)

    @property
    def notes(self) -> tuple[str, ...]:
        """A note for the user, if the cuts differ."""
        pairs = [(whole, part) for part, (whole, _, _) in self.taken.items()]
        pairs += [(part, whole) for part, (whole, _) in self.placed.items()]
        if not pairs:
            return ()
        trained, base = pairs[0]
        return (
            f"the adapter was trained on another cut of the model: its LoRA on {trained!r} is merged into {base!r}",
        )


def find_cut(
    config: Mapping[str, Any],
    keys: Collection[str],
    base: Mapping[str, TensorSpec],
    model: Mapping[str, Any] | None,
) -> OtherCut:
    """The cut that an adapter's keys have and the base has not.

    Args:
        config: ``adapter_config.json``, checked.
        keys: the adapter's keys without wrappers, in the names of training.
        base: the base's tensors, by name in training.
        model: the base's ``config.json``.
    """
    kind = str((model or {}).get("model_type"))
    view = dict(base)
    taken: dict[str, tuple[str, int, int]] = {}
    placed: dict[str, tuple[str, Place]] = {}
    for fused, parts in CUTS.items() if model and method(config) == "LORA" else ():
        trained_fused = any(f".{fused}." in key for key in keys)
        trained_parts = any(f".{part}." in key for key in keys for part in parts)
        if trained_fused == trained_parts:
            continue
        layers = [name.removesuffix(f"{parts[0] if trained_fused else fused}.weight") for name in base]
        for layer in [layer for layer, name in zip(layers, base, strict=True) if layer != name]:
            own, whole = [f"{layer}{part}.weight" for part in parts], f"{layer}{fused}.weight"
            biased = any(f"{layer}{part}.bias" in base for part in parts)
            apart = all(name in base for name in own) and whole not in base and not biased
            if trained_fused and kind in _SPLIT_MODELS and apart:
                rows = [base[name].shape[0] for name in own]
                view[whole] = replace(base[own[0]], name=whole, shape=(sum(rows), base[own[0]].shape[1]))
                taken |= {name: (whole, start, stop) for name, (start, stop) in zip(own, _spans(rows), strict=True)}
                for name in own:
                    del view[name]
            elif trained_parts and kind in _FUSED_MODELS and not any(name in base for name in own):
                assert model is not None
                rows, spec = _rows(fused, model), view.pop(whole)
                for name, (start, stop) in zip(own, _spans(rows), strict=True):
                    view[name] = replace(spec, name=name, shape=(stop - start, spec.shape[1]))
                    placed[name] = (whole, Place(start, spec.shape[0]))
    return OtherCut(view, taken, placed)


def _rows(fused: str, model: Mapping[str, Any]) -> list[int]:
    """The rows of the matrices that *fused* holds, by the base's config."""
    if fused.startswith("mlp."):
        return [positive(model, "intermediate_size")] * 2
    size = head_dim(model)
    return [positive(model, "num_attention_heads") * size, *[kv_heads(model) * size] * 2]


def _spans(rows: Sequence[int]) -> list[tuple[int, int]]:
    """The first row and the end of each of several matrices below each other."""
    return [(sum(rows[:i]), sum(rows[: i + 1])) for i in range(len(rows))]


def join_cut(path: Path, cut: OtherCut, changes: Mapping[str, Sequence[Change]]) -> dict[str, list[Change]]:
    """The changes of the tensors that the base has.

    Raises:
        AdapterError: one of another kind than LoRA, which does not map exactly.
    """
    joined: dict[str, list[Change]] = {}
    parts: dict[str, list[tuple[str, int, int]]] = {}
    for name, (whole, start, stop) in cut.taken.items():
        parts.setdefault(whole, []).append((name, start, stop))
    for name, ops in changes.items():
        if name not in parts and name not in cut.placed:
            joined.setdefault(name, []).extend(ops)
            continue
        for change in ops:
            if not isinstance(change, LowRank) or change.magnitude or change.part is not None:
                raise AdapterError(
                    f"{path}: {name!r} is cut differently in the base model, and only plain LoRA can be merged there",
                    hint=BASE_HINT,
                )
            if name in cut.placed:
                whole, place = cut.placed[name]
                joined.setdefault(whole, []).append(replace(change, place=place))
            for own, start, stop in parts.get(name, ()):
                joined.setdefault(own, []).append(replace(change, part=Slice(0, 1, start, stop)))
    return joined
