"""The figures of an evaluation: pure functions of what was measured at every position.

Sums, error bars and percentiles are those of llama.cpp's tools/perplexity, in the same precision.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from quantkit.kernels.logit_steps import Compared

FEWEST = 100
"""Positions below which llama.cpp computes no statistics."""

Floats = npt.NDArray[np.float32]
# Of the divergence and of the probability's change, in percent.
_DIVERGENCE = (99.9, 99.0, 95.0, 90.0, 10.0, 5.0, 1.0, 0.1)
_CHANGE = (99.9, 99.0, 95.0, 90.0, 75.0, 25.0, 10.0, 5.0, 1.0, 0.1)


@dataclass(frozen=True)
class Mean:
    """A mean with its standard error.

    Attributes:
        value: the mean.
        error: its standard error, 0 with ten values or fewer.
    """

    value: float
    error: float


@dataclass(frozen=True)
class Figures:
    """How far a file is from the reference.

    Attributes:
        positions: how many were compared.
        perplexity: of the file on the text.
        reference_perplexity: of the reference, from the log-probabilities that were kept.
        ratio: of the two.
        correlation: of the logarithms of both, 0 to 1.
        kl: the mean KL divergence, in nats.
        kl_median, kl_max: of the divergence.
        kl_percentiles: of the divergence, by percent.
        same_top: the share of positions at which the likeliest token is the reference's.
        p_change: the mean change of the right token's probability, -1 to 1.
        p_change_rms: the root of the mean square of that change.
        p_change_percentiles: of that change, by percent, with the median as 50, the least as 0, the largest as 100.
    """

    positions: int
    perplexity: Mean
    reference_perplexity: Mean
    ratio: Mean
    correlation: float
    kl: Mean
    kl_median: float
    kl_max: float
    kl_percentiles: Mapping[str, float]
    same_top: Mean
    p_change: Mean
    p_change_rms: Mean
    p_change_percentiles: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """Return them as the flat JSON values of an evaluation."""
        return {
            "perplexity": self.perplexity.value,
            "perplexity_error": self.perplexity.error,
            "perplexity_ratio": self.ratio.value,
            "perplexity_ratio_error": self.ratio.error,
            "correlation": self.correlation,
            "kl_mean": self.kl.value,
            "kl_error": self.kl.error,
            "kl_median": self.kl_median,
            "kl_99": self.kl_percentiles["99.0"],
            "kl_max": self.kl_max,
            "kl_percentiles": dict(self.kl_percentiles),
            "same_top": self.same_top.value,
            "same_top_error": self.same_top.error,
            "p_change_mean": self.p_change.value,
            "p_change_error": self.p_change.error,
            "p_change_rms": self.p_change_rms.value,
            "p_change_rms_error": self.p_change_rms.error,
            "p_change_percentiles": dict(self.p_change_percentiles),
        }


def figures_of(compared: Compared) -> Figures:
    """The figures of all positions of a file."""
    count = len(compared.loss)
    loss, base = compared.loss.astype(np.float64), compared.reference_loss.astype(np.float64)
    own = mean(loss.sum(), _squares(compared.loss), count)
    theirs = mean(base.sum(), _squares(compared.reference_loss), count)
    together = (compared.loss * compared.reference_loss).astype(np.float64).sum()
    covariance = 0.0 if count < 10 else (together / count - own.value * theirs.value) / (count - 1)
    ratio = own.value - theirs.value
    ratio_error = _root(own.error**2 + theirs.error**2 - 2 * covariance)
    change = compared.change
    square = change * change
    changed = mean(square.astype(np.float64).sum(), (square.astype(np.float64) ** 2).sum(), count)
    rms = _root(changed.value)
    share = int(compared.same.sum()) / count
    divergence = np.sort(compared.divergence.astype(np.float32))
    changes = np.sort(change)
    return Figures(
        positions=count,
        perplexity=_exponential(own),
        reference_perplexity=_exponential(theirs),
        ratio=_exponential(Mean(ratio, ratio_error)),
        correlation=covariance / (own.error * theirs.error) if own.error and theirs.error else 0.0,
        kl=mean(compared.divergence.sum(), (compared.divergence**2).sum(), count),
        kl_median=median(divergence),
        kl_max=float(divergence[-1]),
        kl_percentiles={str(percent): percentile(divergence, percent / 100) for percent in _DIVERGENCE},
        same_top=Mean(share, _root(share * (1 - share) / (count - 1)) if count > 1 else 0.0),
        p_change=mean(change.astype(np.float64).sum(), square.astype(np.float64).sum(), count),
        p_change_rms=Mean(rms, 0.5 / rms * changed.error if rms else 0.0),
        p_change_percentiles={
            "100": float(changes[-1]),
            **{str(percent): percentile(changes, percent / 100) for percent in _CHANGE},
            "50": median(changes),
            "0": float(changes[0]),
        },
    )


def reference_perplexity(loss: Floats) -> Mean:
    """A perplexity from the negative log-probabilities of the right tokens, float32 [positions]."""
    return _exponential(mean(loss.astype(np.float64).sum(), _squares(loss), len(loss)))


def mean(total: float, squares: float, count: int) -> Mean:
    """A mean and its error, from the sum of the values and that of their squares."""
    value = float(total) / count
    spread = float(squares) / count - value * value
    return Mean(value, math.sqrt(spread / (count - 1)) if spread > 0 and count > 10 else 0.0)


def median(ordered: Floats) -> float:
    """The median of ordered values."""
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return float(ordered[middle])
    return float(np.float32(0.5) * (ordered[middle] + ordered[middle - 1]))


def percentile(ordered: Floats, fraction: float) -> float:
    """The value below which a fraction of ordered values lies, between two of them in float32."""
    place = np.float32(fraction) * np.float32(len(ordered) - 1)
    below = int(place)
    part = place - np.float32(below)
    above = min(below + 1, len(ordered) - 1)
    return float((np.float32(1) - part) * ordered[below] + part * ordered[above])


def _squares(values: Floats) -> float:
    return float((values * values).astype(np.float64).sum())


def _exponential(log: Mean) -> Mean:
    return Mean(_exp(log.value), _exp(log.value) * log.error)


def _exp(value: float) -> float:
    """The exponential, of a model that knows nothing a number all the same: JSON has no infinity."""
    return math.exp(min(value, 700.0))


def _root(value: float) -> float:
    return math.sqrt(value) if value > 0 else 0.0
