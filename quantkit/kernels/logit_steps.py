"""Log-probabilities as steps, and the divergence from them, in numpy operations: what ``lane_logits`` computes.

The formulas are those of llama.cpp's tools/perplexity (``--kl-divergence``): a reference's log-probabilities are 65536
steps over the last 16 nats below the largest logit, and the divergence leaves out tokens whose reference
log-probability is at most -16. So only the other tokens have to be kept. Sums run over eight lanes, one after the
other, and the exponential is written out: compiled code gives the same bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from quantkit.kernels.arithmetic import Bytes, Floats, nearest_int, quiet

F32 = np.float32
LANES = 8
# Nats below the largest logit that have steps, and the log-probability up to which a token does not count.
RANGE, FLOOR, LEVELS = F32(16), F32(-16), F32(65535)
# A step for every token; a bit for every token, then the steps of those kept; the gaps between those, then the steps.
DENSE, BITMAP, GAPS = 0, 1, 2
# A gap of so many tokens or more is written as this byte, and the rest after it; one more makes the bytes even.
LONG_GAP = 255

# exp(x) = 2**n * exp(r): the coefficients of Cephes' expf, and ln 2 in two parts. Below LEAST it is 0.
LEAST, LOG2E, LN2_HIGH, LN2_LOW = F32(-87), F32(1.44269504), F32(0.693359375), F32(-2.12194440e-4)
COEFFICIENTS = tuple(
    map(F32, (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1))
)
SHIFT, ONE, ZERO = F32(12582912.0), F32(1), F32(0)


@dataclass(frozen=True, eq=False)
class Packed:
    """Reference log-probabilities of some positions.

    Attributes:
        scale: float32 [n]: the log-probability of a step.
        floor: float32 [n]: that of step 0.
        places: int32 [n, 5]: the likeliest token, how many tokens are kept, the bytes of the payload, the step of the
            right token, and the layout.
        payload: uint8, the payloads one after another.
    """

    scale: Floats
    floor: Floats
    places: npt.NDArray[np.int32]
    payload: Bytes

    def __len__(self) -> int:
        return len(self.scale)


@dataclass(frozen=True, eq=False)
class Compared:
    """How some positions of a file differ from the reference.

    Attributes:
        loss: float32 [n]: the negative log-probability of the right token.
        reference_loss: float32 [n]: the same in the reference, from its steps.
        divergence: float64 [n]: the KL divergence of the file from the reference, in nats.
        change: float32 [n]: the right token's probability, less the reference's.
        same: bool [n]: whether the likeliest token is the reference's.
    """

    loss: Floats
    reference_loss: Floats
    divergence: npt.NDArray[np.float64]
    change: Floats
    same: npt.NDArray[np.bool_]


def exponential(x: Floats) -> Floats:
    """exp of float32 values, all operations in float32; 0 below -87."""
    low = np.where(x > LEAST, x, LEAST)
    n = (low * LOG2E + SHIFT) - SHIFT
    r = (low - n * LN2_HIGH) - n * LN2_LOW
    value = np.full_like(r, COEFFICIENTS[0])
    for coefficient in COEFFICIENTS[1:]:
        value = value * r + coefficient
    value = (value * (r * r) + r) + ONE
    power = ((n.astype(np.int32) + np.int32(127)) << np.int32(23)).view(np.float32)
    found: Floats = np.where(x > LEAST, value * power, ZERO)
    return found


def lane_sum(values: npt.NDArray[np.float32]) -> float:
    """The sum in float64: value i into lane i % 8, then the lanes in order."""
    lanes = np.zeros(-(-len(values) // LANES) * LANES, dtype=np.float64)
    lanes[: len(values)] = values
    total = 0.0
    for lane in np.add.reduce(lanes.reshape(-1, LANES), axis=0):
        total += float(lane)
    return total


def even(count: int) -> int:
    """*count*, or one more: steps begin at even places."""
    return count + count % 2


def log_total(logits: Floats) -> tuple[np.float32, np.float32]:
    """The largest logit, and the logarithm of the sum of exp(logit - largest)."""
    largest = np.float32(logits.max())
    total = lane_sum(exponential(logits - largest))
    return largest, np.float32(math.log(total)) if total > 0 else np.float32(np.nan)


def steps_of(logits: Floats) -> tuple[np.float32, np.float32, npt.NDArray[np.uint16]]:
    """The scale, the log-probability of step 0, and the step of every token: float32 [V] to uint16 [V]."""
    largest, log_sum = log_total(logits)
    least = np.float32(max(np.float32(logits.min()), largest - RANGE))
    floor = np.float32(least - largest) - log_sum
    scale = np.float32(largest - least) / LEVELS
    steps = np.zeros(len(logits), dtype=np.uint16)
    if scale:
        found = nearest_int((ONE / scale) * (logits - least))
        steps[:] = np.where(logits > least, found, 0)
    return scale, floor, steps


def pack(logits: Floats, tokens: npt.NDArray[np.int32]) -> Packed:
    """Keep a reference's log-probabilities.

    Args:
        logits: float32 [n, V].
        tokens: int32 [n]: the right token of each position, the one that follows it.

    Returns:
        With NaN as floor where a logit is NaN.
    """
    count = len(logits)
    scale, floor = (np.empty(count, dtype=np.float32) for _ in range(2))
    places, payloads = np.empty((count, 5), dtype=np.int32), []
    with quiet():
        for row in range(count):
            scale[row], floor[row], steps = steps_of(logits[row])
            kept = np.flatnonzero(scale[row] * steps.astype(np.float32) + floor[row] > FLOOR)
            layout, payload = _smallest(kept, steps)
            places[row] = int(steps.argmax()), len(kept), len(payload), int(steps[tokens[row]]), layout
            payloads.append(payload)
    return Packed(scale, floor, places, np.concatenate(payloads))


def _smallest(kept: npt.NDArray[np.int64], steps: npt.NDArray[np.uint16]) -> tuple[int, Bytes]:
    size, values = len(steps), steps[kept].astype("<u2").view(np.uint8)
    gaps = np.diff(kept, prepend=-1) - 1
    gap_bytes = even(len(kept) + int((gaps // LONG_GAP).sum()))
    bits = even(-(-size // 8))
    if 2 * size <= len(values) + min(gap_bytes, bits):
        return DENSE, steps.astype("<u2").view(np.uint8)
    if bits <= gap_bytes:
        flags = np.zeros(8 * bits, dtype=np.uint8)
        flags[kept] = 1
        return BITMAP, np.concatenate((np.packbits(flags, bitorder="little"), values))
    written = np.full(gap_bytes, LONG_GAP, dtype=np.uint8)
    written[np.cumsum(1 + gaps // LONG_GAP) - 1] = gaps % LONG_GAP
    return GAPS, np.concatenate((written, values))


def unpack(packed: Packed, row: int, start: int, size: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint16]]:
    """The tokens kept at a position, and their steps.

    Args:
        packed: the positions.
        row: which of them.
        start: where its payload begins.
        size: V, the tokens of the vocabulary.
    """
    _, kept, nbytes, _, layout = (int(place) for place in packed.places[row])
    payload = packed.payload[start : start + nbytes]
    if layout == DENSE:
        steps = payload.view("<u2")
        index = np.flatnonzero(packed.scale[row] * steps.astype(np.float32) + packed.floor[row] > FLOOR)
        return index, steps[index]
    before = nbytes - 2 * kept
    steps = payload[before:].copy().view("<u2")
    if layout == BITMAP:
        return np.flatnonzero(np.unpackbits(payload[:before], bitorder="little")[:size]), steps
    ends = payload[:before] != LONG_GAP
    return np.cumsum(payload[:before].astype(np.int64) + ends)[ends] - 1, steps


def compare(logits: Floats, tokens: npt.NDArray[np.int32], packed: Packed) -> Compared:
    """Compare a file's logits, float32 [n, V], with the reference's positions.

    Returns:
        With NaN as loss where a logit is NaN.
    """
    count, size = logits.shape
    loss, base, change = (np.empty(count, dtype=np.float32) for _ in range(3))
    divergence, same = np.empty(count, dtype=np.float64), np.empty(count, dtype=np.bool_)
    start = 0
    with quiet():
        for row in range(count):
            values, scale, floor = logits[row], packed.scale[row], packed.floor[row]
            largest, log_sum = log_total(values)
            top, _, nbytes, right, _ = (int(place) for place in packed.places[row])
            loss[row] = largest + log_sum - values[tokens[row]]
            base[row] = -(scale * np.float32(right) + floor)
            index, steps = unpack(packed, row, start, size)
            start += nbytes
            likely = scale * steps.astype(np.float32) + floor
            divergence[row] = lane_sum(exponential(likely) * ((likely - values[index]) + (largest + log_sum)))
            same[row] = int(values.argmax()) == top
    change[:] = exponential(-loss) - exponential(-base)
    return Compared(loss, base, divergence, change, same)
