"""Several answers at a time in one context: each is the one that it would be alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

import quantkit
from quantkit.demo.data import BASE
from quantkit.errors import QuantkitError
from quantkit.run.answer import Answer
from quantkit.run.lanes import Lane, Lanes
from quantkit.run.session import ChatModel

CONTEXT = 128
TEXTS = ["Who are you?", "Tell me a story. " * 6, "你好", "What is a quantized model?"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChatModel]:
    """A trained model, whose answers depend on all of the prompt."""
    path = quantkit.convert(BASE, tmp_path_factory.mktemp("lanes") / "base.gguf")
    with ChatModel.load(path, threads=1, n_ctx=CONTEXT) as model:
        yield model


@pytest.fixture
def lanes(model: ChatModel) -> Lanes:
    return model.engine.open_lanes(3)


def prepared(model: ChatModel, text: str, **options: Any) -> Answer:
    return model.prepare([{"role": "user", "content": text}], max_tokens=20, **options)


def together(answers: Sequence[Answer], lanes: Lanes) -> list[str]:
    """The texts of answers that advance in the same steps."""
    texts = ["" for _ in answers]
    running = {index: answer.steps(lanes) for index, answer in enumerate(answers)}
    while running:
        waiting: list[Lane] = []
        for index, steps in list(running.items()):
            for step in steps:
                if isinstance(step, Lane):
                    waiting.append(step)
                    break
                texts[index] += step
            else:
                del running[index]
        if waiting:
            lanes.step(waiting)
    return texts


def reused(answers: Sequence[Answer]) -> list[int]:
    return [answer.stats.reused_tokens for answer in answers if answer.stats is not None]


def test_answers_beside_each_other(model: ChatModel, lanes: Lanes) -> None:
    alone = [model.answer([{"role": "user", "content": text}], max_tokens=20) for text in TEXTS]
    assert len(set(alone)) == len(TEXTS)
    for first in range(len(TEXTS)):
        texts = (TEXTS * 2)[first : first + 3]
        expected = (alone * 2)[first : first + 3]
        assert together([prepared(model, text) for text in texts], lanes) == expected


def test_prompts_take_over_what_is_there(model: ChatModel, lanes: Lanes) -> None:
    answers = [prepared(model, "Tell me a story. " * 5 + end) for end in ("a", "b", "c")]
    first = together(answers, lanes)
    assert reused(answers) == [0, 0, 0], "nothing was there when they began"
    again = [prepared(model, "Tell me a story. " * 5 + end) for end in ("c", "a", "b")]
    assert together(again, lanes) == [first[2], first[0], first[1]]
    assert reused(again) == [len(answer.prompt) - 1 for answer in again]
    other = [prepared(model, "Tell me a story. " * 5 + "d" * 5)]
    together(other, lanes)
    assert 10 < reused(other)[0] < len(other[0].prompt) - 1


def test_what_is_kept_makes_room(lanes: Lanes) -> None:
    """Each of three answers has the whole context, whatever was kept before."""

    def fill(first: int) -> None:
        opened = [lanes.begin([first + number] * CONTEXT) for number in range(3)]
        while waiting := [lane for lane in opened if lane.pending]:
            lanes.step(waiting)
        assert [len(lane.evaluated) for lane in opened] == [CONTEXT] * 3
        for lane in opened:
            lanes.end(lane)

    fill(10)
    fill(20)
    # llama.cpp has cells in multiples of 256, so there is room for one more.
    assert [one.tokens[0] for one in lanes._cache.kept] == [12, 20, 21, 22]


def test_a_failed_step_leaves_nothing(model: ChatModel, lanes: Lanes, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = prepared(model, "hello").steps(lanes)
    lane = next(steps)
    assert isinstance(lane, Lane)
    with monkeypatch.context() as patched:
        patched.setattr("quantkit.run.lanes.decode", lambda *arguments: (-3, "out of order"))
        with pytest.raises(QuantkitError, match=r"position 0 \(status -3\): out of order"):
            lanes.step([lane])
    steps.close()
    answers = [prepared(model, "hello")]
    assert together(answers, lanes) == [model.answer([{"role": "user", "content": "hello"}], max_tokens=20)]
    assert reused(answers) == [0]


def test_kinds_do_not_mix(model: ChatModel, lanes: Lanes) -> None:
    prompt = prepared(model, "hello").prompt
    for kind, common in (("a", 0), ("b", 0), ("a", len(prompt) - 1)):
        lane = lanes.begin(prompt, kind=kind)
        assert (lane.reused, lane.kind) == (common, kind)
        lanes.step([lane])
        lanes.end(lane)
