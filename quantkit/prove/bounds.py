"""How far from transformers' logits an unquantized file may be: measured, see docs/prove.md."""

from __future__ import annotations

from dataclasses import dataclass

from quantkit.prove.measure import Distance
from quantkit.verify.report import Check


@dataclass(frozen=True)
class Bounds:
    """The most that a file may differ, in nats.

    Attributes:
        mean: of the KL divergences of all positions.
        largest: of one position; None where a single position may differ by any amount: a router that holds two experts
            almost equal may choose the other one.
    """

    mean: float
    largest: float | None


# llama.cpp rounds what it multiplies with an F16 or BF16 matrix to the matrix's type.
_DENSE = {"f32": Bounds(1e-5, 1e-3), "f16": Bounds(3e-4, 3e-2), "bf16": Bounds(2e-2, 2.0)}
_EXPERTS = {"f32": Bounds(1e-4, None), "f16": Bounds(3e-3, None), "bf16": Bounds(0.3, None)}


def bounds(label: str, *, experts: bool) -> Bounds | None:
    """The bounds of a type; None for a quantized type, whose distance is reported and not judged."""
    return (_EXPERTS if experts else _DENSE).get(label)


def check_distance(found: Distance, allowed: Bounds | None) -> Check:
    """Compare a distance with its bounds.

    Returns:
        The check, "logits": its figure has everything that is measured.
    """
    figure = (
        f"mean KL {found.mean:.2g} nats, largest {found.largest:.2g} ({found.where}), likeliest token the same at "
        f"{_percent(found.agreement)} of {found.positions} positions"
    )
    first = "the likeliest token is the same everywhere"
    if found.first is not None:
        first = (
            f"the likeliest token first differs at {found.first.sequence}, position {found.first.position}: "
            f"{found.first.ours} in the file, {found.first.theirs} in transformers, which holds its own "
            f"{found.first.gap:.2g} nats likelier"
        )
    if allowed is None:
        return Check("logits", True, figure, "", first)
    passed = found.mean <= allowed.mean and (allowed.largest is None or found.largest <= allowed.largest)
    threshold = f"mean at most {allowed.mean:g}"
    if allowed.largest is not None:
        threshold += f", largest at most {allowed.largest:g}"
    # NaN compares as false, so it does not pass.
    return Check("logits", passed, figure, threshold, first)


def _percent(share: float) -> str:
    """100 % only where nothing differs."""
    return "100 %" if share == 1 else f"{min(100 * share, 99.99):.4g} %"
