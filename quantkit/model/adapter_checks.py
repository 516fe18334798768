"""Whether adapters change the model as they should: what can be told before the merge, and what the merge measured.

docs/adapters.md has the measurements that the thresholds come from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from quantkit.adapter.changes import LowRank
from quantkit.adapter.folder import Adapter
from quantkit.errors import AdapterError
from quantkit.model.adapter_effect import AdapterEffect, percent
from quantkit.model.effect_meter import LARGE
from quantkit.model.effect_sums import DEVIATIONS, WITHIN
from quantkit.model.merge_record import AGAIN, check_merged_before
from quantkit.model.opened import MergedCheckpoint

_UNTRAINED = (
    "use a checkpoint that was saved after training; after sharded training (ZeRO-3, FSDP), gather the weights before "
    "save_pretrained"
)
# An overlap says something if unrelated weights would give one of this size by chance.
_SHARP_ERROR = 0.05
# An adapter of a model holds no more of it by chance, nor by its training: -0.08 to 0.01 were measured.
_PARTLY = 0.2
# "Nearly all" and "most" matrices.
_NEARLY_ALL, _MOST = 0.9, 0.5


def check_adapters(model: MergedCheckpoint, *, again: bool) -> None:
    """Refuse, before a weight of the base is read, adapters that change nothing or are in the model already.

    Args:
        model: the base with its adapters.
        again: the user knows that an adapter is merged a second time.

    Raises:
        AdapterError: all factors of an adapter are zero; an adapter is given twice, or was merged into the base.
    """
    for adapter in model.adapters:
        _check_factors(adapter)
    if not again:
        check_merged_before(model.checkpoint.path, model.adapters)


def check_effects(effects: Sequence[AdapterEffect], *, again: bool) -> tuple[str, ...]:
    """Notes for the user on what the merge measured.

    Args:
        effects: of all adapters.
        again: the user knows that an adapter is part of the base already.

    Raises:
        AdapterError: an adapter changes nothing, or what it adds is part of the base already.
    """
    for effect in effects:
        count = effect.matrices + effect.vectors
        if effect.weight and count and not effect.changed and not effect.changed_vectors:
            raise AdapterError(
                f"adapter {effect.adapter} changes nothing: all {count} tensors that it trains are the same without it",
                hint=_UNTRAINED,
            )
        if not again and is_contained(effect):
            raise AdapterError(
                f"adapter {effect.adapter}: what it adds is in the base model's weights already ({effect.contained} of "
                f"{effect.matrices} matrices, overlap {effect.overlap:.2f}): it was merged before, or it needs the "
                "residual model that PiSSA or OLoRA trained on",
                hint=f"use the model that it was trained on, or a converted adapter (pissa_converted); {AGAIN}",
            )
    return tuple(note for effect in effects for note in _notes(effect, again=again))


def is_contained(effect: AdapterEffect) -> bool:
    """Whether the base contains the adapter's change already, beyond doubt; only sums of factors can tell."""
    return (
        effect.plain
        and effect.weight > 0
        and 0 < effect.overlap_error < _SHARP_ERROR
        and abs(effect.overlap - 1) < WITHIN + DEVIATIONS * effect.overlap_error
        and effect.contained >= _NEARLY_ALL * effect.matrices
    )


def is_partly_contained(effect: AdapterEffect) -> bool:
    """Whether the base contains a part of the adapter's change, beyond doubt; only sums of factors can tell."""
    sharp = effect.plain and effect.weight > 0 and 0 < effect.overlap_error < _SHARP_ERROR
    return sharp and effect.overlap > _PARTLY + DEVIATIONS * effect.overlap_error


def _check_factors(adapter: Adapter) -> None:
    """Look for one product of factors that is not zero: usually the first."""
    products = [change for changes in adapter.changes.values() for change in changes]
    factors = [change for change in products if isinstance(change, LowRank) and not change.magnitude]
    if len(factors) < len(products):
        return  # tensors that are trained in other ways are measured while they are merged
    if not any(change.scale for change in factors):
        raise AdapterError(
            f"{adapter.path / 'adapter_config.json'}: lora_alpha is 0, so the adapter changes nothing",
            hint="set lora_alpha to the value of the training",
        )
    zero = {"lora_A": 0, "lora_B": 0}
    for change in factors:
        left, right = adapter.factors(change)
        if left.any() and right.any():
            return
        embedding = change.transposed
        zero["lora_A" if embedding else "lora_B"] += not left.any()
        zero["lora_B" if embedding else "lora_A"] += not right.any()
    side = max(zero, key=lambda name: zero[name])
    raise AdapterError(
        f"{adapter.weights_file.path}: the adapter changes nothing: "
        + (f"all {len(factors)} {side} factors are zero" if zero[side] == len(factors) else "all products are zero"),
        hint=_UNTRAINED,
    )


def _notes(effect: AdapterEffect, *, again: bool) -> Iterator[str]:
    total, changed = effect.matrices + effect.vectors, effect.changed + effect.changed_vectors
    if not total:
        yield f"a later adapter replaces everything that {effect.adapter} trains"
    elif not effect.weight:
        yield f"{effect.adapter} was merged with weight 0, which changes nothing"
    elif changed < total:
        yield (
            f"{effect.adapter} changes nothing in {total - changed} of the {total} tensors that it trains, such as "
            f"{effect.unchanged}: part of it was not trained, or not saved"
        )
    if not again and is_partly_contained(effect):
        yield (
            f"about {percent(effect.overlap)} of what {effect.adapter} adds is in the base model's weights already: it "
            "may have been merged into some of the layers, or an earlier checkpoint of the same training into all"
        )
    if effect.large > _MOST * effect.matrices:
        yield (
            f"{effect.adapter} adds {percent(effect.norm)} of the norm of the weights, more than {percent(LARGE)} in "
            f"{effect.large} of {effect.matrices} matrices; adapters of large models add a few percent: if the model "
            "answers badly, see whether the base, lora_alpha and the learning rate are right"
        )
