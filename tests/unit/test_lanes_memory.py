"""Answers beside each other in models that keep more than keys and values of all tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import quantkit
from quantkit.run.lanes import Lanes
from quantkit.run.session import ChatModel

Logits = list[npt.NDArray[np.float32]]

# Kind of checkpoint -> whether its memory can go back to an earlier token: a window, a short convolution, Mamba-2.
KINDS = {"olmo3": True, "lfm2": False, "falcon-h1": False}


def logits(lanes: Lanes, prompts: Sequence[Sequence[int]], *, reuse: bool) -> tuple[Logits, list[int]]:
    """The logits behind each prompt and three tokens more, and how much of each prompt was there."""
    opened = [lanes.begin(prompt, reuse=reuse) for prompt in prompts]
    found: list[Logits] = [[] for _ in opened]
    while waiting := [lane for lane in opened if lane.pending]:
        lanes.step(waiting)
        for lane, rows in zip(opened, found, strict=True):
            if not lane.pending and len(rows) < 4:
                rows.append(lanes.logits(lane.row))
                if len(rows) < 4:
                    lane.pending.append(20 + len(rows))
    for lane in opened:
        lanes.end(lane)
    return [np.array(rows) for rows in found], [lane.reused for lane in opened]


@pytest.mark.parametrize("kind", KINDS)
def test_each_is_what_it_is_alone(
    kind: str, checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = quantkit.convert(checkpoint(kind), tmp_path_factory.mktemp("lanes") / "model.gguf", outtype="f32")
    first = [[token % 90 + 5 for token in range(start, start + size)] for start, size in ((0, 9), (31, 40), (62, 71))]
    # What was said is continued; the last one differs from it in the middle.
    then = [[*prompt, 21, 22, 23, 7, 8] for prompt in first[:2]] + [[*first[2][:50], 3, 4]]
    with ChatModel.load(path, threads=1, n_ctx=128) as model:
        lanes = model.engine.open_lanes(3)
        for prompts, least in ((first, [0, 0, 0]), (then, [12, 43, 50 if KINDS[kind] else 0])):
            alone = [logits(model.engine.lanes, [prompt], reuse=False)[0][0] for prompt in prompts]
            together, reused = logits(lanes, prompts, reuse=True)
            assert reused == least
            for one, other in zip(alone, together, strict=True):
                assert one.std() > 0.01
                np.testing.assert_allclose(one, other, atol=2e-3 * np.abs(one).max())
